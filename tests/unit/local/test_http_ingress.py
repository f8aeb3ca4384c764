"""What the ingress answers by itself, in memory: nothing of it may wake an endpoint."""

from __future__ import annotations

import asyncio

import pytest
from asgi_client import ask
from endpoint_table import DEMO, FakeRoute, FakeTable

from pilotlight_local.ingress.http_ingress import HttpIngress
from pilotlight_wire.cors import CorsPolicy
from pilotlight_wire.edge_bounds import EdgeBounds

BASE = "/serving/default/demo"
PREFLIGHT = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}


def ingress(bounds: EdgeBounds | None = None) -> tuple[FakeTable, HttpIngress]:
    table = FakeTable(FakeRoute(queue_depth=0, timeout_s=60))
    return table, HttpIngress(table, bounds or EdgeBounds())


@pytest.mark.parametrize("path", [BASE + "/openai/v1/chat/completions", "/serving/default/nobody/v2"])
async def test_a_preflight_wakes_nothing(path: str) -> None:
    table, app = ingress()
    answered = await ask(app, "OPTIONS", path, headers=PREFLIGHT)
    assert answered.status == 204
    assert answered.headers["access-control-allow-origin"] == "*"
    assert table.statuses == []


@pytest.mark.parametrize("host", ["test", "demo.default.localhost", "demo-predictor.default.localhost"])
async def test_what_is_asked_of_the_whole_server_wakes_nothing(host: str) -> None:
    table, app = ingress()
    answered = await ask(app, "OPTIONS", "*", headers={"host": host})
    assert answered.status == 204
    assert "POST" in answered.headers["allow"]
    assert table.statuses == []


async def test_origins_that_may_not_call_are_the_pods_affair() -> None:
    table, app = ingress(EdgeBounds(cors=CorsPolicy(())))
    assert (await ask(app, "OPTIONS", BASE, headers=PREFLIGHT)).status == 503
    assert table.statuses == [503]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/", 200, "Pilotlight"),
        ("GET", "/healthz", 200, "ok"),
        ("HEAD", "/healthz", 200, ""),
        ("GET", "/metrics", 200, "pilotlight_things"),
        ("POST", "/metrics", 404, "no endpoint"),
        ("OPTIONS", "*", 204, ""),
        ("OPTIONS", "/", 404, "no endpoint"),
        ("DELETE", "/serving/default/nobody/v2", 404, "no endpoint"),
    ],
)
async def test_the_platforms_own_answers(method: str, path: str, status: int, words: str) -> None:
    table, app = ingress()
    answered = await ask(app, method, path)
    assert answered.status == status
    assert words in answered.body.decode()
    assert not table.statuses


@pytest.mark.parametrize(("path", "openai"), [("/openai/v1/models", True), ("/v2", False)])
async def test_errors_have_the_shape_of_their_path_and_cors(path: str, openai: bool) -> None:
    table, app = ingress()
    for base in (BASE, "/serving/default/nobody"):
        answered = await ask(app, "GET", base + path, headers={"origin": "http://localhost:3000"})
        assert answered.status == (503 if base == BASE else 404)
        assert isinstance(answered.json["error"], dict) is openai
        assert answered.headers["access-control-allow-origin"] == "*"
        assert answered.headers["x-request-id"]
    assert table.statuses == [503]


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [("POST", "/openai/v1/chat/completions", 1), ("GET", "/openai/v1/models", 0), ("GET", "/metrics", 0)],
)
async def test_only_what_needs_the_model_wakes_it_beside_its_transformer(method: str, path: str, needed: int) -> None:
    table = FakeTable(FakeRoute(queue_depth=1, timeout_s=60))
    waiting = asyncio.create_task(ask(HttpIngress(table, EdgeBounds()), method, BASE + path))
    while not table.route.activator.queued:  # noqa: ASYNC110 - the task changes it
        await asyncio.sleep(0)
    assert table.route.activator.waiting_for_model == needed
    waiting.cancel()
    assert (await waiting).status == 503
    assert table.route.activator.waiting_for_model == 0


async def test_a_bug_is_json_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    table, app = ingress()
    table.choose = None  # type: ignore[assignment]  # a bug, made
    answered = await ask(app, "GET", BASE)
    assert answered.status == 500
    assert "NoneType" not in answered.body.decode()
    assert "failed" in caplog.text


async def test_an_in_cluster_address_is_for_its_component_whatever_the_host_says() -> None:
    table, app = ingress()
    answered = await ask(app.service(DEMO, "predictor"), "GET", "/serving/x/y", headers={"host": "nobody"})
    assert answered.status == 503
    assert table.statuses == [503]
