"""The client is shown the name that it asked for, wherever a surface puts a model's name."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.routing.asked_name import AskedName, with_model
from pilotlight_wire.handlers import Reply

OCTETS = "application/octet-stream"

ASKED = 'sm"art\n'


def read(pieces: Sequence[bytes]) -> bytes:
    """By one that learns from the first how the next ones begin."""
    asked = AskedName(ASKED)
    return b"".join(map(asked.in_events, pieces))


def event(data: object, name: str = "") -> bytes:
    return f"{f'event: {name}{chr(10)}' if name else ''}data: {json.dumps(data)}\n\n".encode()


@pytest.mark.parametrize(
    "shape",
    [
        lambda name: {"id": "1", "model": name, "choices": [{"delta": {"content": '"model":"own"'}}]},
        lambda name: {"type": "message_start", "message": {"id": "m", "model": name}},
        lambda name: {"type": "response.created", "response": {"model": name, "tools": [{"model": "own"}]}},
        lambda name: {"model_name": name, "model_version": "1", "text_output": "a"},
        lambda name: {"type": "content_block_delta", "delta": {"text": "own", "input": {"model": "own"}}},
    ],
)
def test_wherever_a_surface_names_the_model(shape) -> None:
    pieces = [event(shape("own"), "e") + b": comment\n\n", event(shape("own")), b"data: [DONE]\n\n"]
    data = [line[6:] for line in read(pieces).split(b"\n") if line.startswith(b"data: ")]
    assert [json.loads(each) for each in data[:-1]] == [shape(ASKED)] * 2
    assert data[-1] == b"[DONE]"
    result = AskedName(ASKED).in_reply(Reply(json.dumps(shape("own")).encode()))
    assert json.loads(result.body) == shape(ASKED)


FIELDS = st.dictionaries(
    st.sampled_from(("id", "model", "model_name", "model_version", "message", "choices", '"model":"own"')),
    st.sampled_from(("own", "ow", "own'", '"model":"own"', None, 1, {"model": "own"}, {"a": [{"model": "own"}]})),
)
EVENTS = st.lists(
    st.sampled_from((b"data: [DONE]\n\n", b": comment\n\n", b"data:\n\n"))
    | FIELDS.map(lambda fields: b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"),
    max_size=8,
)


@given(EVENTS, st.lists(st.integers(1, 3), max_size=8))
def test_what_was_learned_from_one_event_changes_nothing_in_the_next(events: list[bytes], sizes: list[int]) -> None:
    """`sizes`: how many events come in a piece."""
    pieces, left = [], list(events * 2)
    for size in sizes:
        pieces.append(b"".join(left[:size]))
        del left[:size]
    pieces.extend(left)
    assert read(pieces) == b"".join(AskedName(ASKED).in_events(each) for each in events * 2)


@given(st.sampled_from(("own", "a" * 40)), st.binary(max_size=40), st.booleans())
def test_a_binary_answer_has_it_too_and_the_same_tensors(own: str, tensors: bytes, of_pods: bool) -> None:
    output = {"name": "y", "shape": [len(tensors)], "datatype": "UINT8"}
    response = {"model_name": own, "outputs": [{**output, "parameters": {"binary_data_size": len(tensors)}}]}
    head = json.dumps(response).encode()
    header = "inference-header-content-length" if of_pods else "Inference-Header-Content-Length"
    result = AskedName(ASKED).in_reply(Reply(head + tensors, 200, OCTETS, {"allow": "x", header: str(len(head))}))
    length = int(result.headers[header])
    assert json.loads(result.body[:length]) == {**response, "model_name": ASKED}
    assert (result.body[length:], result.headers["allow"], len(result.headers)) == (tensors, "x", 2)


@pytest.mark.parametrize("told", ["", "x", "-1", "3"])
def test_a_binary_answer_whose_length_is_none_passes_as_it_is(told: str) -> None:
    reply = Reply(b'{"model_name": "own"}', 200, OCTETS, {"inference-header-content-length": told})
    body = AskedName(ASKED).in_reply(reply).body
    assert body == reply.body


@given(st.lists(st.binary(max_size=30), max_size=4))
def test_what_is_no_event_of_ours_passes_as_it_is(pieces: list[bytes]) -> None:
    if b"model" not in b"".join(pieces):
        assert read(pieces) == b"".join(pieces)


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"a": 1}', b"\xff", b'{"model": ' + b"[" * 50_000])
def test_a_reply_without_a_model_passes_as_it_is(body: bytes) -> None:
    assert AskedName(ASKED).in_reply(Reply(body)) == Reply(body)


@given(
    st.dictionaries(
        st.text(max_size=5), st.integers() | st.text() | st.lists(st.floats(allow_nan=False, allow_infinity=False))
    )
)
def test_a_request_keeps_everything_else(fields: dict[str, object]) -> None:
    fields["model"] = "asked"
    assert json.loads(with_model(json.dumps(fields).encode(), "own")) == {**fields, "model": "own"}


def test_a_models_metadata_have_its_name_where_nothing_else_has() -> None:
    body = b'{"name": "own", "versions": ["1"]}'
    named = AskedName(ASKED, of_metadata=True).in_reply(Reply(body))
    assert json.loads(named.body) == {"name": ASKED, "versions": ["1"]}
    assert AskedName(ASKED).in_reply(Reply(body)) == Reply(body)
