"""The ingress over real sockets in front of a fake endpoint table: bounds that are large in real life."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from pilotlight_local.activator.activator import Activator, Backend
from pilotlight_local.ingress.grpc_proxy import GrpcClientSide, route_by_host
from pilotlight_local.ingress.http_ingress import HttpIngress, new_upstream_session
from pilotlight_local.ingress.listener import FirstBytes
from pilotlight_local.ingress.routes import Component, Destination, EndpointName, find_destination
from pilotlight_local.ingress.table import Route
from pilotlight_wire.server_timing import Phase

pytestmark = pytest.mark.integration

DEMO = EndpointName("default", "demo")


class FakeRoute:
    revision = "demo-00001"
    component: Component = "predictor"

    def __init__(self, queue_depth: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.activator = Activator(self.revision, 0, random.Random(1), lambda: None, queue_depth=queue_depth)

    def is_cold(self) -> bool:
        return True

    def progress(self) -> tuple[str, float | None]:
        return "predictor-starting", 3.0


class FakeTable:
    def __init__(self, route: FakeRoute) -> None:
        self.route = route
        self.statuses: list[int] = []

    def find(self, host: str, path: str) -> Destination | None:
        return find_destination(host, path, lambda name: name == DEMO)

    def choose(self, endpoint: EndpointName, component: Component | None) -> Route:
        return self.route

    def record(self, route: Route, status: int, duration_s: float, phases: Sequence[Phase]) -> None:
        self.statuses.append(status)

    def metrics_text(self) -> str:
        return ""


@asynccontextmanager
async def ingress(table: FakeTable) -> AsyncIterator[str]:
    """Base URL of an ingress for `table`."""
    async with new_upstream_session() as session:
        http = web.Server(HttpIngress(table, session).handle, handler_cancellation=True, access_log=None)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: FirstBytes(http, lambda: GrpcClientSide(route_by_host(table))), "127.0.0.1", 0
        )
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/serving/default/demo"
        server.close()
        await http.shutdown(1.0)


async def settled(table: FakeTable, queued: int) -> None:
    async with asyncio.timeout(10):
        while table.route.activator.queued != queued:  # noqa: ASYNC110 - another connection changes it
            await asyncio.sleep(0.01)


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
    assert (full["type"], full["code"], full["param"]) == ("service_unavailable_error", 503, None)
    assert "holds 0 requests" in full["message"]
    assert event == full
    assert (unknown["type"], unknown["code"]) == ("not_found_error", 404)


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
