"""The client against frames we make ourselves: no socket, no process."""

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest

from pilotlight_engine.client.engine_client import EngineClient
from pilotlight_engine.contract import EngineInfo, EngineStats, GenerateRequest
from pilotlight_protocol.engine_frames import (
    Abort,
    Check,
    Checked,
    Failed,
    Generate,
    LeaseFrame,
    LeaseHostFrame,
    Metrics,
    MetricsText,
    Pool,
    Pooled,
    Refused,
    Step,
    Welcome,
)
from pilotlight_protocol.errors import InvalidInput, Unavailable
from pilotlight_protocol.frame_codec import FrameSplitter, encode
from pilotlight_protocol.generation import GenerationParameters, TokenDelta
from pilotlight_protocol.pooling import PooledVector, PoolingParameters, PoolRequest

INFO = EngineInfo(128, 512, [2], 16, 8, "awq", "cpu", {"load": 1.0})


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[LeaseFrame] = []
        self.aborted = False
        self._splitter = FrameSplitter()

    def write(self, data: Any) -> None:
        self.sent += [msgspec.msgpack.decode(body, type=LeaseFrame) for body in self._splitter.feed(bytes(data))]

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def connect() -> tuple[EngineClient, FakeTransport]:
    client = EngineClient(call_deadline_s=0.01)
    transport = FakeTransport()
    client.connection_made(transport)
    return client, transport


def say(client: EngineClient, *frames: LeaseHostFrame) -> None:
    client.data_received(b"".join(bytes(encode(frame)) for frame in frames))


def request(n: int = 1) -> GenerateRequest:
    return GenerateRequest("r", [1], GenerationParameters(n=n))


async def pooling(client: EngineClient, transport: FakeTransport) -> tuple[asyncio.Task[PooledVector], int]:
    """A request to pool that has been sent, and its number."""
    task = asyncio.create_task(client.pool(PoolRequest("r", [1], PoolingParameters())))
    await asyncio.sleep(0)
    sent = transport.sent[-1]
    assert isinstance(sent, Pool)
    return task, sent.stream


async def test_a_vector_reaches_its_request() -> None:
    client, transport = connect()
    (one, first), (two, second) = await pooling(client, transport), await pooling(client, transport)
    say(
        client,
        Pooled([(second, PooledVector(b"two", 1)), (first, PooledVector(b"one", 1)), (99, PooledVector(b"", 1))]),
    )
    assert [(await one).values, (await two).values] == [b"one", b"two"]
    say(client, Pooled([(first, PooledVector(b"again", 1))]))


async def test_a_vector_that_is_refused_lost_or_not_waited_for() -> None:
    client, transport = connect()
    refused, number = await pooling(client, transport)
    say(client, Refused(number, 400, "no"))
    with pytest.raises(InvalidInput, match="no"):
        await refused
    cancelled, number = await pooling(client, transport)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    assert transport.sent[-1] == Abort(number)
    lost, _ = await pooling(client, transport)
    client.lose("it died")
    with pytest.raises(Unavailable, match="it died"):
        await lost


async def test_it_is_ready_when_it_is_welcome() -> None:
    client, _ = connect()
    assert not client.ready.done()
    say(client, Welcome(INFO, EngineStats(), "demo"))
    assert client.ready.done()
    assert (client.info, client.model_name) == (INFO, "demo")


async def test_tokens_reach_their_request_and_stats_are_kept() -> None:
    client, transport = connect()
    stream = client.generate(request())
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    (sent,) = transport.sent
    assert isinstance(sent, Generate)
    say(client, Step([(sent.stream, TokenDelta(0, [7])), (999, TokenDelta(0, [8]))], EngineStats(1, 2, 0.5, 9.0)))
    assert [delta.token_ids for delta in await first] == [[7]]
    say(client, Step([(sent.stream, TokenDelta(0, [9], "stop"))], EngineStats()))
    assert [delta.token_ids async for deltas in stream for delta in deltas] == [[9]]
    assert transport.sent == [sent]
    assert client.stats == EngineStats()


async def test_closing_a_request_early_aborts_it() -> None:
    client, transport = connect()
    async with contextlib.aclosing(client.generate(request())) as stream:
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        sent = transport.sent[0]
        assert isinstance(sent, Generate)
        say(client, Step([(sent.stream, TokenDelta(0, [7]))], EngineStats()))
        await first
    assert transport.sent[-1] == Abort(sent.stream)


async def test_a_cancelled_reader_aborts_its_request() -> None:
    client, transport = connect()
    task = asyncio.ensure_future(anext(client.generate(request())))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert isinstance(transport.sent[-1], Abort)


async def test_who_is_cancelled_while_the_connection_closes_ends_as_cancelled() -> None:
    client, transport = connect()
    task = asyncio.ensure_future(anext(client.generate(request())))
    await asyncio.sleep(0)
    transport.aborted = True
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_refused_request_fails_alone() -> None:
    client, transport = connect()
    bad = asyncio.ensure_future(anext(client.generate(request())))
    good = asyncio.ensure_future(anext(client.generate(request())))
    await asyncio.sleep(0)
    first, second = (frame.stream for frame in transport.sent if isinstance(frame, Generate))
    say(client, Refused(first, 400, "too long"), Step([(second, TokenDelta(0, [1]))], EngineStats()))
    with pytest.raises(InvalidInput, match="too long"):
        await bad
    assert (await good)[0].token_ids == [1]
    assert not any(frame == Abort(first) for frame in transport.sent)


async def test_calls_are_answered_by_number() -> None:
    client, transport = connect()
    metrics, check = asyncio.ensure_future(client.metrics()), asyncio.ensure_future(client.check())
    await asyncio.sleep(0)
    numbers = {type(frame): frame.call for frame in transport.sent if isinstance(frame, Metrics | Check)}
    say(client, Checked(numbers[Check]), MetricsText(numbers[Metrics], b"vllm:x 1"))
    assert await metrics == b"vllm:x 1"
    await check


async def test_an_engine_that_does_not_answer_is_unavailable() -> None:
    client, _ = connect()
    with pytest.raises(Unavailable, match="did not answer"):
        await client.check()


async def test_losing_the_engine_fails_everything_with_the_reason() -> None:
    client, transport = connect()
    reader = asyncio.ensure_future(anext(client.generate(request())))
    check = asyncio.ensure_future(client.check())
    await asyncio.sleep(0)
    say(client, Failed("boom"))
    client.lose("the engine failed: boom")
    for waiting in (reader, check):
        with pytest.raises(Unavailable, match="boom"):
            await waiting
    assert client.lost.result() == "the engine failed: boom"
    assert transport.aborted
    with pytest.raises(Unavailable, match="boom"):
        await anext(client.generate(request()))
