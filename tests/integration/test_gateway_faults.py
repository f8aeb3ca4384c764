"""The pods' way before upstreams that fail in every way: whole and exact, or a clear error, and nothing hangs.

The upstream is a socket with a script: what it does with the first request, the second, and so on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from endpoint_entries import entry
from waiting import until_async

from pilotlight_gateway.pods_way.pods_way import PodsWay
from pilotlight_gateway.pods_way.replica_set import Timing
from pilotlight_gateway.request_steps import Asked, Caller, GatewayRequest, Place
from pilotlight_gateway.resilience.patience import PatienceSettings
from pilotlight_protocol.endpoint_directory import PodsAddress
from pilotlight_protocol.errors import DeadlineExceeded, PilotlightError, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext, Stream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

TOKENS = [*(f"data: {number}\n\n".encode() for number in range(39)), b"data: [DONE]\n\n"]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Upstream:
    """`script`: one word for each request, the last one for all that follow."""

    def __init__(self, *script: str) -> None:
        self.script = list(script)
        self.requests: list[bytes] = []
        self.gone = 0
        self.metrics = b""
        self.asked_metrics = 0
        self._running: dict[asyncio.Task[Any] | None, asyncio.StreamWriter] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._running[task] = writer
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            writer.close()
            del self._running[task]

    async def end(self) -> None:
        while self._running:
            for writer in list(self._running.values()):
                writer.transport.abort()
            await asyncio.sleep(0)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if head.startswith(b"GET /metrics"):
            self.asked_metrics += 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(self.metrics), self.metrics))
            return True
        self.requests.append(head + await reader.readexactly(length))
        return await self._do(self.script.pop(0) if len(self.script) > 1 else self.script[0], reader, writer)

    async def _do(self, word: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        kind, _, rest = word.partition(" ")
        match kind:
            case "reset":
                writer.transport.abort()
                return False
            case "status":
                status, _, retry_after = rest.partition(" ")
                more = f"retry-after: {retry_after}\r\n" if retry_after else ""
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\n{more}\r\n{{}}".encode())
                return True
            case "whole":
                body = json.dumps({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                return True
            case "silent":
                await self._until_gone(reader)
                return False
        writer.write(HEAD)
        for number, token in enumerate(TOKENS):
            if number == 10 and kind == "dies":
                writer.transport.abort()
                return False
            if number == 10 and kind == "half":
                writer.write(b"7\r\ndata: 1\r\n")
                await writer.drain()
                writer.transport.close()
                return False
            if number == 10 and kind == "stalls":
                await self._until_gone(reader)
                return False
            writer.write(b"%x\r\n%b\r\n" % (len(token), token))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return True

    async def _until_gone(self, reader: asyncio.StreamReader) -> None:
        await reader.read()
        self.gone += 1


class Front:
    def __init__(self, way: PodsWay, port: int, pods_ready: int, listen: Any) -> None:
        self._way = way
        self._listen = listen
        self._entry = entry(
            "chat",
            pods=PodsAddress(f"http://127.0.0.1:{port}", "chat.team.localhost"),
            pods_ready=pods_ready,
            timeout_s=20.0,
        )

    async def beside(self, upstream: Upstream) -> None:
        """Another replica."""
        replicas = self._entry.replicas or (self._entry.pods,)
        address = PodsAddress(f"http://127.0.0.1:{await self._listen(upstream)}", "chat.team.localhost")
        self._entry = msgspec.structs.replace(self._entry, replicas=(*replicas, address))

    def leave_first_port(self) -> None:
        nobody = PodsAddress("http://127.0.0.1:1", "chat.team.localhost")
        self._entry = msgspec.structs.replace(self._entry, replicas=(nobody, *self._entry.replicas[1:]))

    def wake(self) -> None:
        self._way.wake(self._entry)

    async def ask(self, path: str = "/v1/chat/completions", body: bytes = b'{"model":"chat"}', **headers: str) -> Any:
        context = RequestContext("r1", {"content-type": "application/json", **headers}, body)
        self.request = GatewayRequest(
            context, Place("POST", path, path, path, path, None), Asked("chat"), Caller("team"), self._entry, "chat"
        )
        return await self._way.answer(self.request)


@pytest_asyncio.fixture
async def fronted() -> AsyncIterator[Any]:
    async with contextlib.AsyncExitStack() as stack:

        async def listen(upstream: Upstream) -> int:
            server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
            stack.push_async_callback(server.wait_closed)
            stack.push_async_callback(upstream.end)
            stack.callback(server.close)
            port: int = server.sockets[0].getsockname()[1]
            return port

        async def made(upstream: Upstream, pods_ready: int = 1) -> Front:
            port = await listen(upstream)
            way = PodsWay(Timing(2.0, 1.0), PatienceSettings(ceiling_s=1.0), jitter=lambda: 0.0)
            stack.push_async_callback(way.close)
            return Front(way, port, pods_ready, listen)

        yield made


async def read(result: Any) -> list[bytes]:
    assert isinstance(result, Stream)
    try:
        return [piece async for piece in result.events]
    finally:
        await result.events.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "faults", [["reset"], ["status 502"], ["status 503"], ["status 503 0"], ["status 504", "reset"]]
)
async def test_what_fails_before_the_first_byte_is_sent_again(fronted: Any, faults: list[str]) -> None:
    upstream = Upstream(*faults, "streams")
    front = await fronted(upstream)
    assert b"".join(await read(await front.ask())) == b"".join(TOKENS)
    assert len(upstream.requests) == len(faults) + 1
    assert len({request.partition(b"\r\n\r\n")[2] for request in upstream.requests}) == 1


@pytest.mark.parametrize(("word", "status"), [("status 500", 500), ("status 429 3", 429), ("status 503 60", 503)])
async def test_what_is_an_answer_is_passed_on_at_once(fronted: Any, word: str, status: int) -> None:
    upstream = Upstream(word)
    reply = await (await fronted(upstream)).ask()
    assert isinstance(reply, Reply)
    assert (reply.status, len(upstream.requests)) == (status, 1)
    if " " in word.removeprefix("status "):
        assert reply.headers["retry-after"] == word.rpartition(" ")[2]


async def test_what_does_harm_twice_is_sent_once(fronted: Any) -> None:
    upstream = Upstream("reset", "whole")
    front = await fronted(upstream)
    with pytest.raises(Unavailable):
        await front.ask("/v2/repository/models/chat/load")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("word", "error"), [("dies", Unavailable), ("half", Unavailable), ("stalls", DeadlineExceeded)]
)
async def test_what_breaks_after_the_first_byte_is_a_clear_error(
    fronted: Any, word: str, error: type[PilotlightError]
) -> None:
    upstream = Upstream(word)
    front = await fronted(upstream)
    pieces: list[bytes] = []
    result = await front.ask()

    async def collect() -> None:
        try:
            async for piece in result.events:
                pieces.append(piece)  # noqa: PERF401 - what came before the error is wanted
        finally:
            await result.events.aclose()

    with pytest.raises(error):
        await collect()
    assert b"".join(pieces) == b"".join(TOKENS[:10])
    assert front.request.usage.output_tokens == 10
    assert len(upstream.requests) == 1


async def test_an_upstream_that_says_nothing(fronted: Any) -> None:
    upstream = Upstream("silent")
    with pytest.raises(DeadlineExceeded):
        await (await fronted(upstream)).ask()
    await until_async(lambda: upstream.gone == 1)


@pytest.mark.parametrize("word", ["silent", "stalls"])
async def test_a_client_that_leaves_ends_the_work(fronted: Any, word: str) -> None:
    upstream = Upstream(word)
    front = await fronted(upstream)
    task = asyncio.create_task(front.ask())
    await until_async(lambda: bool(upstream.requests))
    if word == "stalls":
        await (await task).events.aclose()
    else:
        task.cancel()
        await asyncio.wait({task})
    await until_async(lambda: upstream.gone == 1)


async def test_pods_that_fail_again_and_again_are_left_alone(fronted: Any) -> None:
    upstream = Upstream("status 502")
    front = await fronted(upstream)
    statuses: list[int] = []
    for _ in range(40):
        try:
            statuses.append((await front.ask()).status)
        except Unavailable as error:
            assert error.retry_after_s is not None
            statuses.append(0)
    assert statuses[-1] == 0
    assert len(upstream.requests) < 40
    upstream.script = ["whole"]
    await until_async(lambda: _works(front), 20)
    assert (await front.ask()).status == 200


async def _works(front: Front) -> bool:
    try:
        return bool((await front.ask()).status == 200)
    except Unavailable:
        return False


async def test_what_fails_while_no_pod_is_ready_opens_nothing(fronted: Any) -> None:
    upstream = Upstream("status 504")
    front = await fronted(upstream, pods_ready=0)
    for _ in range(20):
        assert (await front.ask()).status == 504


async def test_pods_are_woken_once_at_a_time(fronted: Any) -> None:
    upstream = Upstream("silent")
    front = await fronted(upstream)
    for _ in range(3):
        front.wake()
    await until_async(lambda: upstream.gone == 1)
    (request,) = upstream.requests
    assert request.startswith(b"GET /v2/health/ready HTTP/1.1\r\nhost: chat.team.localhost")
    front.wake()
    await until_async(lambda: len(upstream.requests) == 2)


@pytest.mark.parametrize("fault", ["reset", "status 500", "status 502", "status 503", "status 503 60", "nobody"])
async def test_what_fails_at_one_replica_is_sent_to_another(fronted: Any, fault: str) -> None:
    bad, good = Upstream(fault), Upstream("streams")
    front = await fronted(bad)
    await front.beside(good)
    if fault == "nobody":
        front.leave_first_port()
    for _ in range(8):
        assert b"".join(await read(await front.ask())) == b"".join(TOKENS)
    assert len(good.requests) == 8


async def test_a_replica_that_fails_again_and_again_gets_nothing(fronted: Any) -> None:
    bad, good = Upstream("dies"), Upstream("streams")
    front = await fronted(bad)
    await front.beside(good)
    for _ in range(60):
        with contextlib.suppress(Unavailable):
            await read(await front.ask())
    asked = len(bad.requests)
    assert asked < 40
    for _ in range(10):
        assert await read(await front.ask())
    assert len(bad.requests) <= asked + 1


async def test_one_prompt_goes_to_one_replica_and_many_to_all(fronted: Any) -> None:
    upstreams = [Upstream("whole") for _ in range(3)]
    front = await fronted(upstreams[0])
    for upstream in upstreams[1:]:
        await front.beside(upstream)
    for _ in range(6):
        await front.ask(body=b'{"model":"chat","messages":"' + b"a" * 2000 + b'"}')
    assert sorted(len(upstream.requests) for upstream in upstreams) == [0, 0, 6]
    for letter in range(60):
        await front.ask(body=b'{"model":"chat","messages":"' + b"%d" % letter * 500 + b'"}')
    assert min(len(upstream.requests) for upstream in upstreams) > 5


async def test_load_is_what_was_sent_and_has_not_ended(fronted: Any) -> None:
    upstreams = [Upstream("stalls") for _ in range(2)]
    front = await fronted(upstreams[0])
    await front.beside(upstreams[1])
    streams = [await front.ask() for _ in range(8)]
    assert [len(upstream.requests) for upstream in upstreams] == [4, 4]
    for stream in streams:
        await stream.events.aclose()
    await until_async(lambda: all(upstream.gone == 4 for upstream in upstreams))


async def test_engines_are_asked_for_their_metrics(fronted: Any) -> None:
    full, free = Upstream("whole"), Upstream("whole")
    full.metrics = b"vllm:num_requests_running 1.0\nvllm:kv_cache_usage_perc 0.97\n"
    front = await fronted(full)
    await front.beside(free)

    async def settled() -> bool:
        before = len(full.requests)
        for _ in range(6):
            await front.ask()
        return len(full.requests) == before

    await until_async(settled, 20)
    assert full.asked_metrics


async def test_keys_stay_here_and_usage_is_read(fronted: Any) -> None:
    upstream = Upstream("whole")
    front = await fronted(upstream)
    reply = await front.ask(authorization="Bearer secret", **{"x-api-key": "secret", "x-pilotlight-tenant": "team"})
    assert reply.status == 200
    (request,) = upstream.requests
    assert b"secret" not in request
    assert b"x-pilotlight-tenant: team" in request
    assert b"host: chat.team.localhost" in request
    assert (front.request.usage.prompt_tokens, front.request.usage.output_tokens) == (3, 4)
