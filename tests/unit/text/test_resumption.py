"""A streamed answer is told while it is made, and goes on from any place: the same bytes, whatever the surface."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import httpx
import pytest
from fake_token_source import FACTS
from hypothesis import given, settings
from hypothesis import strategies as st
from surface_app import ids
from text_app import TextApp
from tool_model import tool_text

from pilotlight_protocol.answer_record import RESUME, TELL, Resumption, loss_in, tokens_so_far, told_lines
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import TokenEvent, TokenLogprob
from pilotlight_protocol.pooling import not_pooling
from pilotlight_text.answer_parts.chosen_format import ChosenFormat
from pilotlight_text.pooling_source import PooledAnswer, PoolingCall
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenStream
from pilotlight_wire.hop_headers import OUTPUT_TOKENS

SEED = "1700000000 secret"
WORDS = "Once upon a time, there was a word \u4e16\u754c\U0001f600 and <b>more</b> of them."
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "\u4e16\u754c", "n": 3}}\n</tool_call>'
QUESTION = [{"role": "user", "content": "Say it."}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
FLAT_TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}}

CHAT = {"messages": QUESTION, "temperature": 0, "stream": True}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}}),
    "chat, every usage": ("/v1/chat/completions", {**CHAT, "stream_options": {"continuous_usage_stats": True}}),
    "chat, logprobs": ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 1}),
    "chat, ids": ("/v1/chat/completions", {**CHAT, "return_token_ids": True}),
    "chat, stop": ("/v1/chat/completions", {**CHAT, "stop": ["there was"]}),
    "chat, tools": ("/v1/chat/completions", {**CHAT, "tools": [TOOL]}),
    "chat, copies": ("/v1/chat/completions", {**CHAT, "n": 3}),
    "chat, samples": ("/v1/chat/completions", {**CHAT, "n": 2, "temperature": 1}),
    "completions": ("/v1/completions", {"prompt": "Hi", "temperature": 0, "stream": True, "echo": True, "logprobs": 1}),
    "responses": ("/v1/responses", {"input": "Say it.", "temperature": 0, "stream": True}),
    "responses, tools": ("/v1/responses", {"input": "Say it.", "temperature": 0, "stream": True, "tools": [FLAT_TOOL]}),
    "messages": ("/v1/messages", {"messages": QUESTION, "max_tokens": 99, "temperature": 0, "stream": True}),
    "generate": ("/v2/models/demo/generate_stream", {"text_input": "Hi", "parameters": {"temperature": 0}}),
}


class Continuing:
    """Says `tokens`, and of a prompt that ends with some of them the rest; `sizes`: of its batches, again and again."""

    def __init__(self, tokens: Sequence[int], sizes: Sequence[int], lost_after: int | None = None) -> None:
        self.tokens = list(tokens)
        self.sizes = sizes
        self.lost_after = lost_after
        self.asked: list[TokenRequest] = []

    async def stream(self, request: TokenRequest) -> TokenStream:
        self.asked.append(request)
        done = int(request.metadata.get(OUTPUT_TOKENS, 0))
        assert request.input_ids[len(request.input_ids) - done :] == self.tokens[:done]
        return _Stream(self, request, done)

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        raise not_pooling()

    async def close(self) -> None:
        return


class _Stream:
    facts: AnswerFacts = FACTS

    def __init__(self, source: Continuing, request: TokenRequest, done: int) -> None:
        self._source = source
        self._request = request
        self._done = self._first = done
        self._batch = 0

    async def events(self) -> list[TokenEvent]:
        source, parameters = self._source, self._request.parameters
        if source.lost_after is not None and self._done >= source.lost_after:
            raise Unavailable("the engine is\nlost")
        size = source.sizes[self._batch % len(source.sizes)]
        new, self._batch = source.tokens[self._done : self._done + size], self._batch + 1
        is_first, self._done = self._done == self._first, self._done + len(new)
        events = []
        for index in range(parameters.n):
            ends = self._done == len(source.tokens)
            event = TokenEvent(index=index, output_ids=list(new), finish_reason="stop" if ends else None)
            if parameters.logprobs is not None:
                event.logprobs = [TokenLogprob(token, -0.5, [(token, -0.5)]) for token in new]
            if is_first and index == 0:
                event.prompt_tokens, event.cached_tokens = len(self._request.input_ids), self._first
            events.append(event)
        return events if new else []

    async def close(self) -> None:
        return


def spoken(text: str) -> list[int]:
    return [*ids(text), *ids("<|im_end|>")]


def content_of(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body if "text_input" in body else {"model": "demo", **body}).encode()


async def answered(source: Continuing, kind: str, headers: Mapping[str, str], told: bytes = b"") -> httpx.Response:
    path, body = ASKED[kind]
    content = content_of(body)
    app = TextApp(cast(Any, source), text=tool_text(ChosenFormat("hermes", "qwen3")))
    return await app.post(path, content + told, **{TELL: SEED, "x-request-id": "r1", **headers})


def cut(whole: bytes, sent: int) -> tuple[bytes, bytes]:
    """What a client and a gateway have when `sent` bytes of the answer have passed; whole events at the least."""
    kept, lines = b"", b""
    for block in whole.split(b"\n\n")[:-1]:
        if len(kept) >= sent:
            break
        piece, said = told_lines(block + b"\n\n")
        kept += piece
        lines += b"".join(each + b"\n" for each in said)
    return kept, lines


async def resumed(source: Continuing, kind: str, kept: bytes, lines: bytes) -> httpx.Response:
    content = content_of(ASKED[kind][1])
    resumption = Resumption(len(content), len(kept), zlib.crc32(kept))
    return await answered(source, kind, {RESUME: resumption.header}, lines)


@pytest.mark.parametrize("kind", ASKED)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
async def test_an_answer_goes_on_from_any_place_with_the_same_bytes(kind: str, data: st.DataObject) -> None:
    tokens = spoken(CALL if "tools" in kind else WORDS)
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    first = await answered(Continuing(tokens, sizes), kind, {})
    assert first.status_code == 200, first.text
    whole = told_lines(first.content)[0]
    assert ("call_" in first.text) == (kind in ("chat, tools", "responses, tools"))
    kept, lines = cut(first.content, data.draw(st.integers(0, len(whole))))
    source = Continuing(tokens, [1])
    again = await resumed(source, kind, kept, lines)
    assert again.status_code == 200, again.text
    rest, said = told_lines(again.content)
    # How tokens came together decides how text is cut into events, but not what it says; so do two choices that go on.
    if len(kept) == len(whole) or (set(sizes) == {1} and kind != "chat, samples"):
        assert timeless(kept + rest) == timeless(whole)
    assert said_by(kept + rest) == said_by(whole)
    counts = [count for line in [*lines.splitlines(), *said] if (count := tokens_so_far(line)) is not None]
    shown = [count for line in told_lines(first.content)[1] if (count := tokens_so_far(line)) is not None]
    if kind != "chat, stop":  # what came with the token that completed the stop string was made, too
        assert counts[-1] == shown[-1]
    generated = sum(len(line["output_ids"]) for line in events_told([*lines.splitlines(), *said]))
    assert generated == counts[-1][1]


def timeless(stream: bytes) -> bytes:
    """Without the time of the end."""
    return re.sub(rb'"completed_at":\d+', b"", stream)


def events_told(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    batches = [json.loads(line.split(b" ", 4)[4]) for line in lines if line.startswith(b"tokens ")]
    return [event for told in batches for batch in told for event in batch]


def said_by(stream: bytes) -> Any:
    """What a client puts together of it: texts by choice, calls, ends, usage, names; not how it is cut."""
    found: dict[str, Any] = {}
    for block in stream.split(b"\n\n"):
        for line in block.split(b"\n"):
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                event = json.loads(line[6:])
                event.pop("sequence_number", None)
                _gather(event, "", found)
    return found, stream.count(b"[DONE]")


def _gather(value: Any, path: str, found: dict[str, Any]) -> None:
    if isinstance(value, dict):
        place = f"{path}#{value['index']}" if "index" in value else path
        for name, each in value.items():
            _gather(each, f"{place}.{name}", found)
    elif isinstance(value, list):
        for each in value:
            _gather(each, path, found)
    elif path.rpartition(".")[2] in ("content", "text", "delta", "arguments", "text_output", "partial_json"):
        found[path] = found.get(path, "") + (value or "")
    elif value not in (None, "", 0) and not path.endswith(("completed_at", "_tokens", "offset", "sequence_number")):
        found[path] = value


async def test_who_does_not_ask_is_told_nothing() -> None:
    path, body = ASKED["chat"]
    text = tool_text(ChosenFormat("hermes", "qwen3"))
    app = TextApp(cast(Any, Continuing(spoken(WORDS), [1])), text=text)
    plain = await app.post(path, content_of(body), **{"x-request-id": "r1"})
    told = await answered(Continuing(spoken(WORDS), [1]), "chat", {})
    made = json.loads(plain.text.split("\n\n")[0][6:])["created"]
    assert told_lines(told.content)[0] == plain.content.replace(b'"created":%d' % made, b'"created":1700000000')
    assert b":~" not in plain.content


async def test_the_loss_of_the_tokens_is_told_before_the_error() -> None:
    lost = await answered(Continuing(spoken(WORDS), [1], lost_after=4), "chat", {})
    kept, said = told_lines(lost.content)
    assert loss_in(said[-1]) == "the engine is lost"
    before = kept.rpartition(b"data: ")[0]
    whole = told_lines((await answered(Continuing(spoken(WORDS), [1]), "chat", {})).content)[0]
    again = await resumed(Continuing(spoken(WORDS), [1]), "chat", before, b"".join(line + b"\n" for line in said))
    assert before + told_lines(again.content)[0] == whole


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"seed": 7, "temperature": 1}, 503),
        ({"presence_penalty": 1.0}, 503),
        ({"messages": [{"role": "user", "content": "Another prompt."}]}, 503),
        ({"logprobs": True}, 503),
        ({"stream": False}, 400),
    ],
)
async def test_what_cannot_go_on_exactly_is_refused(change: dict[str, Any], status: int) -> None:
    first = await answered(Continuing(spoken(WORDS), [1]), "chat", {})
    kept, lines = cut(first.content, 900)
    content = json.dumps({"model": "demo", **CHAT, **change}).encode()
    headers = {TELL: SEED, RESUME: Resumption(len(content), len(kept), zlib.crc32(kept)).header}
    source = Continuing(spoken(WORDS), [1])
    app = TextApp(cast(Any, source))
    refused = await app.post("/v1/chat/completions", content + lines, **headers, **{"x-request-id": "r1"})
    assert refused.status_code == status, refused.text


async def test_several_prompts_are_told_to_be_several() -> None:
    body = {"model": "demo", "prompt": ["Hi", "Ho"], "stream": True, "temperature": 0}
    app = TextApp(cast(Any, Continuing(spoken("One."), [1])))
    told = await app.post("/v1/completions", body, **{TELL: SEED})
    assert b"several" in told_lines(told.content)[1]


@pytest.mark.parametrize("header", ["x", "-1 a", "1 2", "1 2 x", "9" * 400])
async def test_headers_that_are_none_are_refused(header: str) -> None:
    refused = await answered(Continuing(spoken("One."), [1]), "chat", {RESUME: header})
    assert refused.status_code == 400
