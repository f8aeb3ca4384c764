"""The HTTP side of the shell in memory: routes, errors in the shape of their route, streams, bounds, CORS, draining."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
from asgi_client import Answered, ask
from counting_model import CountingModel
from prometheus_client import REGISTRY

from pilotlight_protocol.errors import Unauthorized
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.data_plane import DataPlane
from pilotlight_serving.http_app import HttpApp, ModelRouter
from pilotlight_serving.metrics import predict_observer
from pilotlight_serving.openapi_document import openapi_document
from pilotlight_serving.settings import ServerSettings
from pilotlight_serving.v2_routes import V2Routes
from pilotlight_wire.bodies_held import HeldBytes
from pilotlight_wire.cors import CorsPolicy
from pilotlight_wire.handlers import Reply, RequestContext, Route
from pilotlight_wire.hop_headers import TENANT

MODEL = "/v2/models/counter"
VALUES = {"name": "values", "shape": [2], "datatype": "INT32", "data": [1, 2]}
JSON = {"content-type": "application/json"}
SETTINGS = ServerSettings(max_body_bytes=64 * 1024, body_stall_timeout_s=20, model_control=True)


class Shell:
    def __init__(self, settings: ServerSettings = SETTINGS, places: int = 8) -> None:
        self.model = CountingModel()
        self.limiter = ConcurrencyLimiter(places)
        self.plane = DataPlane(self.model, self.limiter, model_control=settings.model_control)
        routes = [*V2Routes(self.plane, lambda: openapi_document(self.model)).routes(), *self.model.routes()]
        self.app = HttpApp(ModelRouter(routes, self.model), self.limiter, settings, predict_observer(self.model.name))

    async def get(self, path: str, **headers: str) -> Answered:
        return await ask(self.app, "GET", path, headers=headers)

    async def post(self, path: str, value: Any, **options: Any) -> Answered:
        headers = JSON | options.pop("headers", {})
        return await ask(self.app, "POST", path, headers=headers, body=json.dumps(value).encode(), **options)


def predictions() -> float:
    return REGISTRY.get_sample_value("request_predict_seconds_count", {"model_name": "counter"}) or 0.0


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/", "alive"),
        ("/v2", "pilotlight"),
        ("/v2/health/live", "true"),
        ("/v2/health/ready", "true"),
        ("/v2/models", "org/adapter"),
        (MODEL, '"versions":["1"]'),
        (MODEL + "/versions/1", "INT32"),
        (MODEL + "/ready", "true"),
        ("/v2/models/org%2Fadapter", "org/adapter"),
        ("/v2/models/org/adapter", "org/adapter"),
        ("/v2/models/org/adapter/versions/1/ready", "org/adapter"),
        ("/metrics", "counter_things 3"),
        ("/openapi.json", "3.1.0"),
    ],
)
async def test_questions(path: str, words: str) -> None:
    answered = await Shell().get(path)
    assert answered.status == 200
    assert words in answered.body.decode()
    assert answered.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/v1/models", "/v1/models/counter:predict", "/nothing"])
async def test_paths_that_nobody_serves_say_what_there_is(path: str) -> None:
    shell = Shell()
    answered = await shell.get(path)
    assert answered.status == 404
    assert "openapi.json" in answered.body.decode()
    assert path not in (await shell.get("/openapi.json")).json["paths"]


async def test_every_path_of_the_document_is_served() -> None:
    shell = Shell()
    document = (await shell.get("/openapi.json")).json
    for path, item in document["paths"].items():
        for method in item.keys() & {"get", "post", "delete"}:
            filled = path.replace("{model_name}", "counter").replace("{version}", "1")
            answered = await ask(shell.app, method.upper(), filled, headers=JSON, body=b"{}")
            assert answered.status not in (404, 405), (method, path)
            assert str(answered.status) in item[method]["responses"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/nope", 404),
        ("GET", MODEL + "/versions/2", 404),
        ("DELETE", "/v2", 405),
        ("OPTIONS", "/v2", 405),
        ("GET", MODEL + "/infer", 405),
    ],
)
async def test_refusals_before_a_handler_runs(method: str, path: str, status: int) -> None:
    answered = await ask(Shell().app, method, path)
    assert answered.status == status
    assert set(answered.json) == {"error"}
    assert ("allow" in answered.headers) == (status == 405)


async def test_infer_answers_and_is_counted_once() -> None:
    shell = Shell()
    before = predictions()
    answered = await shell.post(MODEL + "/infer", {"inputs": [VALUES], "id": "a"}, headers={"x-request-id": "r-1"})
    assert answered.json["outputs"][0]["data"] == [1, 2]
    assert answered.headers["x-request-id"] == "r-1"
    assert "pause" in answered.headers["server-timing"]
    assert predictions() == before + 1
    await shell.get("/v2/models")
    assert predictions() == before + 1
    assert shell.limiter.in_flight == 0


async def test_long_answers_are_packed_when_the_client_takes_it() -> None:
    values = {**VALUES, "shape": [2000], "data": list(range(2000))}
    answered = await Shell().post(MODEL + "/infer", {"inputs": [values]}, headers={"accept-encoding": "gzip"})
    assert answered.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(answered.body))["outputs"][0]["shape"] == [2000]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-type": "application/json; charset=latin-1"}, b"{}", 415),
        ({"content-encoding": "br"}, b"{}", 415),
        ({"content-encoding": "gzip"}, b"{}", 400),
        ({}, b"\xff", 400),
        ({"inference-header-content-length": "x"}, b"{}", 400),
        ({}, b"x" * 70_000, 413),
        ({"content-encoding": "gzip"}, gzip.compress(b"x" * 70_000), 413),
    ],
)
async def test_bad_bodies(headers: dict[str, str], body: bytes, status: int) -> None:
    answered = await ask(Shell().app, "POST", MODEL + "/infer", headers=JSON | headers, body=body)
    assert answered.status == status
    assert answered.ended


@pytest.mark.looptime
async def test_a_body_that_stops_arriving_is_given_up() -> None:
    started_s = asyncio.get_running_loop().time()
    headers = JSON | {"content-length": "100"}
    answered = await ask(Shell().app, "POST", MODEL + "/infer", headers=headers, pieces=[b"{"])
    assert answered.status == 408
    assert answered.headers["connection"] == "close"
    assert 20 <= asyncio.get_running_loop().time() - started_s < 25


@pytest.mark.parametrize(("path", "openai"), [(MODEL + "/infer", False), ("/openai/v1/fail", True)])
async def test_errors_have_the_shape_of_their_route_and_cors(path: str, openai: bool) -> None:
    answered = await Shell().post(path, {"status": 503}, headers={"origin": "http://localhost:3000"})
    assert answered.headers["access-control-allow-origin"] == "*"
    error = answered.json["error"]
    assert (error["message"] == "told to fail") if openai else isinstance(error, str)
    if openai:
        assert answered.headers["retry-after"] == "2"
        assert answered.headers["x-pilotlight-param"] == "status"


async def test_a_bug_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    shell = Shell()
    shell.model.infer = None  # type: ignore[assignment]  # a bug, made
    answered = await shell.post(MODEL + "/infer", {"inputs": [VALUES]})
    assert answered.status == 500
    assert "NoneType" not in answered.body.decode()
    assert "failed" in caplog.text


# Browsers

PREFLIGHT = {
    "origin": "http://localhost:3000",
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,authorization",
}


async def test_a_preflight_is_answered_without_a_place() -> None:
    shell = Shell(places=0)
    answered = await ask(shell.app, "OPTIONS", MODEL + "/infer", headers=PREFLIGHT)
    assert (answered.status, answered.body) == (204, b"")
    assert answered.headers["access-control-allow-headers"] == "content-type,authorization"


async def test_origins_that_may_not_call() -> None:
    shell = Shell(replace(SETTINGS, cors=CorsPolicy(("https://app.example",))))
    assert (await ask(shell.app, "OPTIONS", MODEL + "/infer", headers=PREFLIGHT)).status == 405
    assert "access-control-allow-origin" not in (await shell.get("/v2", origin="http://localhost:3000")).headers
    allowed = await shell.get("/v2", origin="https://app.example")
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"


async def test_options_of_the_whole_server() -> None:
    answered = await ask(Shell().app, "OPTIONS", "*")
    assert answered.status == 204
    assert "POST" in answered.headers["allow"]


# Streams

STREAM = MODEL + "/generate_stream"


@pytest.mark.looptime
@pytest.mark.parametrize(("waits", "status"), [("2", 504), ("9", 200), ("soon", 200)])
async def test_an_answer_that_does_not_begin_in_its_senders_time_is_ended(waits: str, status: int) -> None:
    shell = Shell()
    body = {"inputs": [VALUES], "parameters": {"pause_s": 5}}
    answered = await shell.post(f"{MODEL}/infer", body, headers={"x-request-timeout": waits})
    assert answered.status == status
    assert len(shell.model.cancelled) == (status == 504)
    stream = await shell.post(
        f"{MODEL}/generate_stream", {"count": 3, "pause_s": 5}, headers={"x-request-timeout": waits}
    )
    assert (stream.status, stream.body.count(b"data: ")) == (200, 3)


async def test_a_stream_is_sent_as_it_comes() -> None:
    answered = await Shell().post(STREAM, {"count": 3})
    assert answered.headers["content-type"] == "text/event-stream"
    assert answered.pieces == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n", b""]


async def test_a_stream_that_fails_first_keeps_its_status() -> None:
    answered = await Shell().post(STREAM, {"count": 3, "fail_at": 0})
    assert (answered.status, answered.headers["retry-after"]) == (503, "3")


@pytest.mark.parametrize(("how", "status"), [("fail_at", 503), ("break_at", 500)])
async def test_a_stream_that_fails_later_ends_with_an_event(how: str, status: int) -> None:
    answered = await Shell().post(STREAM, {"count": 3, how: 1})
    assert answered.status == 200
    assert json.loads(answered.pieces[1].removeprefix(b"data: "))["status"] == status
    assert b"secret" not in answered.body
    assert answered.ended


async def test_a_client_that_leaves_a_stream_ends_it() -> None:
    shell = Shell()
    answered = await shell.post(STREAM, {"count": 1000}, leave_when=lambda so_far: len(so_far.pieces) == 2)
    assert not answered.ended
    assert shell.model.cancelled
    assert shell.limiter.in_flight == 0


async def test_a_client_that_leaves_before_its_body_is_whole_is_no_error() -> None:
    shell = Shell()

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def never(message: dict[str, Any]) -> None:
        raise AssertionError(message)

    path = MODEL + "/infer"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": []}
    await shell.app(scope, gone, never)
    assert shell.limiter.in_flight == 0


# Triton's options


@pytest.mark.looptime
async def test_the_requests_own_timeout_ends_its_work() -> None:
    shell = Shell()
    body = {"inputs": [VALUES], "parameters": {"timeout": 5_000_000, "pause_s": 60}}
    answered = await shell.post(MODEL + "/infer", body)
    assert answered.status == 504
    assert "5 s" in answered.json["error"]
    assert shell.model.cancelled


@pytest.mark.parametrize("timeout_us", [0, 5_000_000])
async def test_sequences_are_given_back_and_timeouts_that_hold_do_nothing(timeout_us: int) -> None:
    options = {"timeout": timeout_us, "sequence_id": 7, "sequence_start": True, "sequence_end": False}
    answered = await Shell().post(MODEL + "/infer", {"inputs": [VALUES], "parameters": options})
    assert answered.status == 200
    assert answered.json["parameters"] == {"sequence_id": 7, "sequence_start": True, "sequence_end": False}


# Places and draining


async def test_a_full_server_says_when_to_come_back() -> None:
    answered = await Shell(places=0).post(MODEL + "/infer", {"inputs": [VALUES]})
    assert (answered.status, answered.headers["retry-after"]) == (503, "1")


async def test_a_draining_server_serves_but_is_not_ready() -> None:
    shell = Shell()
    shell.limiter.start_draining()
    assert (await shell.get("/v2/health/ready")).status == 503
    answered = await shell.post(MODEL + "/infer", {"inputs": [VALUES]})
    assert (answered.status, answered.headers["connection"]) == (200, "close")
    shell.limiter.refusing = True
    assert (await shell.post(MODEL + "/infer", {"inputs": [VALUES]})).status == 503


async def test_a_request_that_the_drain_cuts_is_told() -> None:
    shell = Shell()
    running = asyncio.create_task(shell.post(MODEL + "/infer", {"inputs": [VALUES], "parameters": {"pause_s": 60}}))
    while not shell.limiter.in_flight:  # noqa: ASYNC110 - the task changes it
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    answered = await running
    assert answered.status == 503
    assert "another replica" in answered.json["error"]


# The repository


async def test_load_and_unload_move_readiness() -> None:
    shell = Shell()
    assert (await shell.post("/v2/repository/models/counter/unload", {})).json == {"name": "counter", "unload": True}
    ready = await shell.get(MODEL + "/ready")
    assert (ready.status, ready.headers["retry-after"]) == (503, "7")
    assert (await shell.post("/v2/repository/index", {"ready": True})).json == []
    assert (await ask(shell.app, "POST", "/v2/repository/index", headers=JSON)).json[0]["state"] == "UNAVAILABLE"
    await shell.post("/v2/repository/models/counter/load", {})
    assert (await shell.post("/v2/repository/index", {"ready": True})).json[0]["state"] == "READY"


async def test_model_control_is_off_unless_asked_for() -> None:
    shell = Shell(replace(SETTINGS, model_control=False))
    assert (await shell.post("/v2/repository/models/counter/unload", {})).status == 403
    assert (await Shell().post("/v2/repository/models/org%2Fadapter/load", {})).status == 404


class Doorkeeper:
    """Routes with a body, for whoever shows a key."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.handled = 0
        self.held_at_end: list[int] = []
        self.admitted_as = ""

    async def admit(self, context: RequestContext) -> None:
        assert not context.body
        if "x-api-key" not in context.headers:
            raise Unauthorized("no key")
        context.headers = {**context.headers, TENANT: self.admitted_as}

    async def handle(self, context: RequestContext) -> Reply:
        self.handled += 1
        self.held_at_end.append(self.shell.app.bodies.held_bytes)
        return Reply(b"%d" % len(context.body))

    def route(self, scope: Any, context: RequestContext) -> Route:
        return Route("POST", "/", self.handle, admit=self.admit)


@pytest.fixture
def door() -> Doorkeeper:
    shell = Shell()
    keeper = Doorkeeper(shell)
    shell.app.router = keeper
    return keeper


@pytest.mark.looptime
async def test_who_is_not_admitted_is_told_so_before_the_body_and_has_no_place_while_it_is_thrown_away(
    door: Doorkeeper,
) -> None:
    in_flight: list[int] = []

    def told(answered: Answered) -> bool:
        in_flight.append(door.shell.limiter.in_flight)
        return False

    answered = await ask(door.shell.app, "POST", "/", headers=JSON, pieces=[b"x"] * 3, leave_when=told)
    assert (answered.status, answered.headers["connection"], answered.ended) == (401, "close", True)
    assert set(in_flight) == {0}
    assert (door.handled, door.shell.app.bodies.held_bytes, door.shell.limiter.in_flight) == (0, 0, 0)


async def test_what_a_body_has_is_given_back_when_its_request_has_ended(door: Doorkeeper) -> None:
    answered = await ask(door.shell.app, "POST", "/", headers=JSON | {"x-api-key": "k"}, body=b"x" * 1000)
    assert answered.body == b"1000"
    assert door.held_at_end == [1000]
    assert (door.shell.app.bodies.held_bytes, door.shell.limiter.in_flight) == (0, 0)


async def test_beyond_what_all_bodies_may_have_one_is_refused_for_a_while(door: Doorkeeper) -> None:
    HeldBytes(door.shell.app.bodies).take(door.shell.app.bodies.most_bytes - 999)
    answered = await ask(door.shell.app, "POST", "/", headers=JSON | {"x-api-key": "k"}, body=b"x" * 1000)
    assert (answered.status, answered.headers["retry-after"], door.handled) == (503, "1", 0)
    assert door.shell.app.bodies.held_bytes == door.shell.app.bodies.most_bytes - 999


@pytest.mark.looptime
async def test_a_tenant_that_fills_what_bodies_may_have_keeps_nobody_out(door: Doorkeeper) -> None:
    """Also with bodies that grow as they are unpacked."""
    held = door.shell.app.bodies
    most = door.shell.app.settings.max_body_bytes
    door.admitted_as = "greedy"
    greedy = [HeldBytes(held) for _ in range(2)]
    for request in greedy:
        request.tenant = "greedy"
    greedy[0].take(held.most_bytes // 2)
    packed = gzip.compress(b"x" * 1000)
    for body, coding in ((b"x" * most, {}), (packed, {"content-encoding": "gzip"})):
        headers = JSON | {"x-api-key": "k"} | coding
        door.admitted_as = "greedy"
        refused = await ask(door.shell.app, "POST", "/", headers=headers, body=body)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        door.admitted_as = "modest"
        answered = await ask(door.shell.app, "POST", "/", headers=headers, body=body)
        assert answered.status == 200
    assert held.of_tenants == {"greedy": held.most_bytes // 2}
