"""V2's bodies from the other side: what a client encodes a server reads, and the other way round, whatever is in it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.v2 import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    Tensor,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)

ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "BYTES": st.binary(max_size=8),
    "INT32": st.integers(-(2**31), 2**31 - 1),
    "UINT64": st.integers(0, 2**64 - 1),
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "BOOL": st.booleans(),
}
PARAMETERS = st.dictionaries(st.sampled_from(("top_p", "stop", "max_tokens")), st.integers(0, 9) | st.text(max_size=3))


@st.composite
def tensors(draw: st.DrawFn) -> list[Tensor]:
    made = []
    for name in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)):
        datatype = draw(st.sampled_from(sorted(ELEMENTS)))
        data = draw(st.lists(ELEMENTS[datatype], max_size=4))
        made.append(Tensor(name, datatype, [len(data)], data, draw(PARAMETERS)))
    return made


@given(inputs=tensors(), identity=st.none() | st.text(max_size=4), parameters=PARAMETERS, output=st.sampled_from("ab"))
@settings(max_examples=60, deadline=None)
def test_a_request_arrives_as_it_was(
    inputs: list[Tensor], identity: str | None, parameters: dict[str, Any], output: str
) -> None:
    sent = InferRequest(inputs, identity, parameters, [RequestedOutput(output)])
    arrived = decode_request(*encode_request(sent))
    for tensor in arrived.inputs:
        tensor.parameters.pop("binary_data_size", None)
    assert arrived == sent


@given(outputs=tensors(), binary=st.booleans(), identity=st.none() | st.text(max_size=4), parameters=PARAMETERS)
@settings(max_examples=60, deadline=None)
def test_an_answer_arrives_as_it_was(
    outputs: list[Tensor], binary: bool, identity: str | None, parameters: dict[str, Any]
) -> None:
    told = [Tensor(each.name, each.datatype, each.shape, each.data) for each in outputs]
    if not binary:  # JSON has no place for bytes that are no text
        told = [each for each in told if each.datatype != "BYTES"]
    sent = InferResponse("m", "1", told, identity, parameters)
    asked = InferRequest([], parameters={"binary_data_output": binary})
    assert decode_response(*encode_response(sent, asked)) == sent


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"outputs":3}',
        b'{"outputs":[{"name":"a","datatype":"INT8","shape":[2],"data":[1]}]}',
        b'{"outputs":[{"name":"a","datatype":"INT8","shape":[1],"data":["x"]}]}',
        b'{"outputs":[{"name":"a","datatype":"FP99","shape":[1],"data":[1]}]}',
    ],
)
def test_what_is_no_answer_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_response(body)


def test_kserves_nulls_are_nothing() -> None:
    body = b'{"model_name":"m","model_version":null,"id":null,"parameters":null,"outputs":[]}'
    assert decode_response(body) == InferResponse("m", "", [])
