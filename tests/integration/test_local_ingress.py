"""The ingress over real sockets in front of a fake endpoint table: bounds that are large in real life."""

import asyncio
import contextlib
import io
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import aiohttp
import grpc
import pytest
from endpoint_table import FakeRoute, FakeTable
from waiting import until_async

from pilotlight_local.activator.activator import Backend
from pilotlight_local.ingress.ports import IngressPorts
from pilotlight_wire.cors import CorsPolicy
from pilotlight_wire.one_port import listen

pytestmark = pytest.mark.integration


@asynccontextmanager
async def ingress(table: FakeTable) -> AsyncIterator[str]:
    """Base URL of an ingress for `table`."""
    ports = IngressPorts(table, CorsPolicy())
    listener = listen("127.0.0.1", 0)
    number = listener.getsockname()[1]
    port = ports.open_ingress(listener)
    try:
        yield f"http://127.0.0.1:{number}/serving/default/demo"
    finally:
        await port.close_listener()
        await ports.end(1.0)


async def settled(table: FakeTable, queued: int) -> None:
    await until_async(lambda: table.route.activator.queued, holds=lambda seen: seen == queued)


async def test_a_full_queue_answers_at_once_and_says_when_to_come_back() -> None:
    table = FakeTable(FakeRoute(queue_depth=2, timeout_s=60))
    async with ingress(table) as base, aiohttp.ClientSession() as session:
        held = [asyncio.create_task(session.get(base)) for _ in range(2)]
        await settled(table, 2)
        async with session.get(base) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            assert "holds 2 requests" in (await answer.json())["error"]
            assert answer.headers["x-request-id"]
        for task in held:
            task.cancel()
        await asyncio.wait(held)
        # Held clients that leave make room at once.
        await settled(table, 0)
    assert sorted(table.statuses) == [499, 499, 503]


@pytest.mark.parametrize("path", ["/openai/v1/chat/completions", "/v1/models"])
async def test_clients_of_openais_routes_get_openais_errors(path: str) -> None:
    table = FakeTable(FakeRoute(queue_depth=0, timeout_s=60))
    progress = {"Accept": "text/event-stream", "x-pilotlight-progress": "1"}
    async with ingress(table) as base, aiohttp.ClientSession() as session:
        async with session.get(base + path) as answer:
            assert answer.status == 503
            assert answer.content_type == "application/json"
            full = (await answer.json())["error"]
        async with session.get(base + path, headers=progress) as answer:
            event = json.loads((await answer.read()).partition(b"data: ")[2])["error"]
        async with session.get(base.replace("demo", "nobody") + path) as answer:
            assert answer.status == 404
            unknown = (await answer.json())["error"]
    assert (full["type"], full["code"], full["param"]) == ("service_unavailable_error", None, None)
    assert "holds 0 requests" in full["message"]
    assert event == full
    assert (unknown["type"], unknown["code"]) == ("invalid_request_error", "model_not_found")


async def test_a_pod_that_refuses_connections_is_suspected_and_answered_for() -> None:
    table = FakeTable(FakeRoute(queue_depth=2, timeout_s=60))
    dead = [Backend(f"dead-{port}", port) for port in (1, 2, 3)]
    table.route.activator.set_ready(dead)
    async with ingress(table) as base, aiohttp.ClientSession() as session, session.get(base) as answer:
        assert answer.status == 502
    assert all(backend.suspected.is_set() for backend in dead)
    assert table.route.activator.running == 0


async def test_progress_lines_carry_the_estimate_and_a_timeout_ends_as_an_event() -> None:
    table = FakeTable(FakeRoute(queue_depth=2, timeout_s=1.5))
    headers = {"Accept": "text/event-stream", "x-pilotlight-progress": "1"}
    async with (
        ingress(table) as base,
        aiohttp.ClientSession() as session,
        session.get(base, headers=headers) as answer,
    ):
        text = (await answer.read()).decode()
    assert text.startswith(": phase=predictor-starting eta_s=3\n\n")
    assert json.loads(text.partition("data: ")[2])["status"] == 504


async def test_a_timeout_in_the_middle_of_an_answer_breaks_the_connection() -> None:
    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await reader.read()
        writer.close()

    pod = await asyncio.start_server(stuck, "127.0.0.1", 0)
    table = FakeTable(FakeRoute(queue_depth=2, timeout_s=1.0))
    table.route.activator.set_ready([Backend("stuck", pod.sockets[0].getsockname()[1])])
    async with ingress(table) as base, aiohttp.ClientSession() as session, session.get(base) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientError):
            await answer.read()
    pod.close()
    assert table.route.activator.running == 0


Pod = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@asynccontextmanager
async def pod_that(answers: Pod, table: FakeTable) -> AsyncIterator[None]:
    running: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.ensure_future(answers(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    table.route.activator.set_ready([Backend("pod", server.sockets[0].getsockname()[1])])
    try:
        yield
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*running), 5)


def answering(raw: bytes, *, close: bool = False) -> Pod:
    """Reads whole requests and answers each with `raw`, until the connection ends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                if b"transfer-encoding: chunked" in head:
                    await reader.readuntil(b"0\r\n\r\n")
                elif b"content-length: " in head:
                    await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                writer.write(raw)
                if close:
                    writer.close()
        writer.close()

    return answer


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nok"


@pytest.mark.parametrize(
    ("method", "raw", "close", "status", "body"),
    [
        ("GET", OK, False, 200, b"ok"),
        ("POST", OK, False, 200, b"ok"),
        ("HEAD", OK.removesuffix(b"ok"), False, 200, b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", False, 304, b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", False, 204, b""),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\nuntil the end", True, 200, b"until the end"),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\n" + OK, False, 200, b"ok"),
    ],
)
async def test_answers_of_every_form_pass(method: str, raw: bytes, close: bool, status: int, body: bytes) -> None:
    table = FakeTable(FakeRoute(queue_depth=2, timeout_s=10))
    async with pod_that(answering(raw, close=close), table), ingress(table) as base, aiohttp.ClientSession() as session:
        for _ in range(2):
            data = b"x" * 100_000 if method == "POST" else None
            async with session.request(method, base + "/a?b=c", data=data) as answer:
                assert (answer.status, await answer.read()) == (status, body)
                assert "activate" in answer.headers["server-timing"]
                if raw.endswith(OK):
                    assert answer.headers.getall("set-cookie") == ["a", "b"]
    assert table.statuses == [status, status]
    assert table.route.activator.running == 0


async def test_a_body_without_a_length_and_a_pod_that_answers_early() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"piece"

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        while await reader.read(1 << 16):
            pass
        writer.close()

    table = FakeTable(FakeRoute(queue_depth=2, timeout_s=10))
    async with (
        pod_that(answering(OK), table),
        ingress(table) as base,
        aiohttp.ClientSession() as session,
        session.post(base, data=pieces()) as answer,
    ):
        assert (answer.status, await answer.read()) == (200, b"ok")
    long = io.BytesIO(b"x" * 10_000_000)
    async with (
        pod_that(early, table),
        ingress(table) as base,
        aiohttp.ClientSession() as session,
        session.post(base, data=long) as answer,
    ):
        assert answer.status == 413
    assert table.route.activator.running == 0


async def test_a_pod_that_breaks_before_it_answers() -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    table = FakeTable(FakeRoute(queue_depth=2, timeout_s=10))
    headers = {"Origin": "http://localhost:3000"}
    async with (
        pod_that(breaks, table),
        ingress(table) as base,
        aiohttp.ClientSession() as session,
        session.get(base, headers=headers) as answer,
    ):
        assert answer.status == 502
        assert "broke the connection" in (await answer.json())["error"]
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_a_client_that_leaves_gives_its_pod_back() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        gone.set()
        writer.close()

    async def ask(session: aiohttp.ClientSession, url: str) -> None:
        async with session.get(url):
            pass

    table = FakeTable(FakeRoute(queue_depth=2, timeout_s=60))
    async with pod_that(slow, table), ingress(table) as base, aiohttp.ClientSession() as session:
        asking = asyncio.create_task(ask(session, base))
        async with asyncio.timeout(30):
            await asked.wait()
            asking.cancel()
            await gone.wait()
        await until_async(lambda: not table.route.activator.running)
    assert table.statuses == [499]


async def test_rest_over_http2_gets_an_http_answer() -> None:
    table = FakeTable(FakeRoute(queue_depth=2, timeout_s=60))
    async with ingress(table) as base:
        ran = await asyncio.create_subprocess_exec(
            "curl", "-si", "--http2-prior-knowledge", base, "-d", "{}", stdout=subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(ran.communicate(), 20)
    assert out.startswith(b"HTTP/2 505")
    assert b"send the request over HTTP/1.1" in out
    assert not table.statuses


async def test_a_call_that_says_nothing_ends_with_its_timeout() -> None:
    """The client keeps its stream open and is alive; the pod answers its first message and then nothing is said."""
    released: list[str] = []

    async def talk(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        try:
            async for message in requests:
                await context.write(message)
        finally:
            released.append("pod")

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("t.T", {"Talk": grpc.stream_stream_rpc_method_handler(talk)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    table = FakeTable(FakeRoute(queue_depth=2, timeout_s=1.5))
    table.route.activator.set_ready([Backend("pod", port)])
    async with ingress(table) as base:
        options = [("grpc.default_authority", "demo.default.localhost")]
        target = base.removeprefix("http://").partition("/")[0]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            calls = [channel.stream_stream("/t.T/Talk")() for _ in range(5)]
            for number, call in enumerate(calls):
                if number < 4:
                    await call.write(b"hello")
                    assert await call.read() == b"hello"
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    await call.read()
                assert ended.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                assert "timeout of 2 s" in (ended.value.details() or "")
            assert table.route.activator.running == 0
            # The connection goes on.
            again = channel.stream_stream("/t.T/Talk")()
            await again.write(b"again")
            assert await again.read() == b"again"
            again.cancel()
    await server.stop(1)
    assert len(released) == 6
