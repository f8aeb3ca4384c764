"""The token contract over REST, with connections of the test: what is sent, what is read, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import pytest

from pilotlight_predictor.token_tensors import Completion, generate_reply
from pilotlight_protocol.engine_frames import GenerateRequest
from pilotlight_protocol.errors import InvalidInput, PilotlightError, TooManyRequests, Unavailable
from pilotlight_protocol.generation import REPEATED, GenerationParameters, TokenDelta
from pilotlight_text.token_source import TokenRequest
from pilotlight_transformer.rest_predictor import RestPredictor
from pilotlight_wire.connection_pool import ConnectionPool
from pilotlight_wire.hop_headers import ELSEWHERE
from pilotlight_wire.http_connection import ConnectionLost
from pilotlight_wire.upstream_address import UpstreamAddress


class Connection:
    def __init__(self, reads: Sequence[bytes], status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.headers = headers or {}
        self._reads = list(reads)

    async def read(self) -> bytes:
        if self._reads and self._reads[0] == b"LOST":
            raise ConnectionLost(before_answer=False)
        return self._reads.pop(0) if self._reads else b""


class Pool:
    def __init__(self, connection: Connection, *before: Connection) -> None:
        self.connection = connection
        self.before = list(before)
        self.sent: list[bytes] = []
        self.given_back: list[str] = []

    async def exchange(self, message: bytes) -> Connection:
        self.sent.append(message)
        return self.before.pop(0) if self.before else self.connection

    def explain(self, error: Exception) -> PilotlightError:
        return Unavailable("the connection was lost")

    def release(self, connection: Connection) -> None:
        self.given_back.append("released")

    def settle(self, connection: Connection) -> None:
        self.given_back.append("settled")

    def close(self) -> None:
        self.given_back.append("closed")


def predictor(connection: Connection, *before: Connection) -> tuple[RestPredictor, Pool]:
    made = RestPredictor(UpstreamAddress("h", 80, "demo.ns"), connect_timeout_s=1, timeout_s=1)
    pool = Pool(connection, *before)
    made._pool = cast(ConnectionPool, pool)
    return made, pool


def asked(whole: bool = False, **parameters: Any) -> TokenRequest:
    return TokenRequest("de/mo", "r", [1, 2], GenerationParameters(**parameters), {"traceparent": "00"}, whole)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


@pytest.mark.parametrize("stop_reason", [None, 7, REPEATED])
async def test_a_whole_answer_is_read_as_the_predictor_writes_it(stop_reason: int | str | None) -> None:
    completion = Completion(GenerateRequest("r", [1, 2], GenerationParameters()))
    completion.add([TokenDelta(0, [3, 4], "stop", stop_reason)])
    source, _ = predictor(Connection([generate_reply("de/mo", "1", "r", completion)]))
    (read,) = await (await source.stream(asked(whole=True))).events()
    assert (read.output_ids, read.finish_reason, read.stop_reason) == ([3, 4], "stop", stop_reason)


async def test_a_stream() -> None:
    first, last = event(output_ids=[3], prompt_tokens=2), event(output_ids=[4], finish_reason="stop")
    reads = [first[:10], first[10:] + last[:5], last[5:]]
    source, pool = predictor(Connection(reads, headers={"server-timing": "prefill;dur=2", "x-pilotlight-lease": "p"}))
    stream = await source.stream(asked())
    assert (stream.facts.phases_ms, stream.facts.metadata) == ({"prefill": 2.0}, {"x-pilotlight-lease": "p"})
    assert [e.output_ids for e in await stream.events()] == [[3]]
    assert [e.finish_reason for e in await stream.events()] == ["stop"]
    assert await stream.events() == []
    await stream.close()
    assert pool.given_back == ["settled"]
    head, _, body = pool.sent[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/models/de%2Fmo/generate_stream HTTP/1.1\r\nhost: demo.ns\r\n")
    assert b"traceparent: 00" in head
    assert json.loads(body) == {"id": "r", "input_ids": [1, 2], "parameters": {}}


async def test_closing_early_gives_the_connection_up() -> None:
    source, pool = predictor(Connection([event(output_ids=[3])]))
    stream = await source.stream(asked(n=2))
    await stream.events()
    await stream.close()
    assert pool.given_back == ["released"]


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (b"", "before the generation was complete"),
        (b"LOST", "connection was lost"),
        (b"data: nonsense\n\n", "not what the contract says"),
        (event(error="gone", status=503), "gone"),
    ],
)
async def test_a_stream_that_breaks(read: bytes, told: str) -> None:
    source, _ = predictor(Connection([read] if read else []))
    stream = await source.stream(asked())
    with pytest.raises(Unavailable, match=told):
        await stream.events()


@pytest.mark.parametrize("broken", [event(error="gone", status=503), b"data: nonsense\n\n"])
async def test_tokens_that_came_with_an_error_are_not_lost(broken: bytes) -> None:
    source, _ = predictor(Connection([event(output_ids=[3], prompt_tokens=2) + broken]))
    stream = await source.stream(asked())
    assert [e.output_ids for e in await stream.events()] == [[3]]
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"gone|contract"):
            await stream.events()


async def test_a_whole_answer() -> None:
    answer = {
        "outputs": [
            {"output_ids": [4], "finish_reason": "stop", "index": 1},
            {"output_ids": [3], "finish_reason": "length"},
        ],
        "usage": {"prompt_tokens": 2, "cached_tokens": 1},
    }
    source, pool = predictor(Connection([json.dumps(answer).encode()]))
    stream = await source.stream(asked(whole=True, n=2))
    first, second = await stream.events()
    assert (first.output_ids, first.prompt_tokens, first.cached_tokens) == ([3], 2, 1)
    assert (second.index, second.finish_reason) == (1, "stop")
    assert await stream.events() == []
    await stream.close()
    assert b"/generate HTTP" in pool.sent[0]
    await source.close()
    assert pool.given_back == ["released", "closed"]


@pytest.mark.parametrize("body", [b"{}", b"nonsense"])
async def test_an_answer_that_is_none(body: bytes) -> None:
    source, _ = predictor(Connection([body]))
    with pytest.raises(Unavailable, match="not what the contract says"):
        await source.stream(asked(whole=True))


@pytest.mark.parametrize("whole", [False, True])
async def test_a_refusal_keeps_its_status_reason_and_delay(whole: bool) -> None:
    headers = {"retry-after": "7", "x-pilotlight-param": "max_tokens"}
    source, _ = predictor(Connection([b'{"error": "full"}'], 429, headers))
    with pytest.raises(TooManyRequests, match="full") as refusal:
        await source.stream(asked(whole))
    assert (refusal.value.retry_after_s, refusal.value.param) == (7.0, "max_tokens")
    source, _ = predictor(Connection([b"<html>"], 400, {"x-pilotlight-param": "input_ids"}))
    with pytest.raises(InvalidInput, match="status 400") as told:
        await source.stream(asked(whole))
    assert told.value.param is None, "the client has sent no input_ids"


def elsewhere() -> Connection:
    return Connection([b'{"error": "another pod has an engine"}'], 503, {ELSEWHERE: "1", "retry-after": "1"})


async def test_a_request_goes_to_the_pod_that_has_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotlight_transformer.rest_predictor.ELSEWHERE_PAUSES_S", (0.0, 0.0))
    said = Connection([event(output_ids=[4], finish_reason="stop")])
    source, pool = predictor(said, elsewhere())
    assert [e.output_ids for e in await (await source.stream(asked())).events()] == [[4]]
    assert [ELSEWHERE.encode() in message for message in pool.sent] == [True, True]
    assert pool.given_back == ["released"]


async def test_the_last_try_waits_wherever_it_comes_and_other_refusals_are_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pilotlight_transformer.rest_predictor.ELSEWHERE_PAUSES_S", (0.0, 0.0))
    source, pool = predictor(elsewhere(), elsewhere(), elsewhere())
    with pytest.raises(Unavailable, match="another pod"):
        await source.stream(asked())
    assert [ELSEWHERE.encode() in message for message in pool.sent] == [True, True, False]
    source, pool = predictor(Connection([b'{"error": "full"}'], 503))
    with pytest.raises(Unavailable, match="full"):
        await source.stream(asked(whole=True))
    assert len(pool.sent) == 1
