"""The serving shell as a process, over real sockets: HTTP and gRPC on one port, limits, disconnects, the drain."""

from __future__ import annotations

import contextlib
import gzip
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from component_process import RunningComponent, running
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_ports import free_port
from waiting import until

from pilotlight_protocol.errors import BY_STATUS
from pilotlight_serving.grpc_messages import ModelStreamInferResponse
from pilotlight_serving.kserve_messages import predict_v2 as pb

pytestmark = pytest.mark.integration

ECHO = str(Path(__file__).with_name("echo_component.py"))
MODEL = "/v2/models/counter"
VALUES = {"name": "values", "datatype": "INT32", "shape": [2], "data": [1, 2]}
SERVICE = "/inference.GRPCInferenceService/"


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComponent]:
    port = free_port()
    log = tmp_path_factory.mktemp("echo") / "echo.log"
    with running([ECHO, str(port)], port, log) as component:
        yield component


@pytest.fixture
def http(echo: RunningComponent) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=echo.base, timeout=10) as client:
        yield client


@pytest.fixture
def channel(echo: RunningComponent) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{echo.port}") as made:
        yield made


def call(channel: grpc.Channel, method: str, message: Any, answer: Any, **options: Any) -> Any:
    unary = channel.unary_unary(SERVICE + method, type(message).SerializeToString, answer.FromString)
    return unary(message, timeout=10, **options)


def infer_message(**parameters: int) -> Any:
    message = pb.ModelInferRequest(model_name="counter", id="7")
    message.inputs.add(name="values", datatype="INT32", shape=[2]).contents.int_contents.extend([1, 2])
    for name, value in parameters.items():
        message.parameters[name].int64_param = value
    return message


def raw_exchange(port: int, request: bytes, deadline_s: float = 10.0) -> bytes:
    """Send `request` as it is and read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=deadline_s) as sock:
        sock.sendall(request)
        received = b""
        while chunk := sock.recv(65536):
            received += chunk
        return received


def cancelled(echo: RunningComponent) -> list[str]:
    return list(json.loads(echo.get("/v2/cancelled")[1]))


# Routes and shapes


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/", {"status": "alive"}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models", {"models": ["counter", "org/adapter"]}),
        (MODEL + "/ready", {"name": "counter", "ready": True}),
        (MODEL + "/versions/1/ready", {"name": "counter", "ready": True}),
        ("/v2/models/org%2Fadapter/ready", {"name": "org/adapter", "ready": True}),
    ],
)
def test_questions(http: httpx.Client, path: str, answer: dict[str, Any]) -> None:
    response = http.get(path)
    assert (response.status_code, response.json()) == (200, answer)
    assert http.head(path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 404),
        ("GET", "/docs", 404),
        ("GET", "/v2/models/nope", 404),
        ("GET", MODEL + "/versions/2", 404),
        ("POST", "/v2/models/nope/infer", 404),
        ("GET", MODEL + "/infer", 405),
        ("DELETE", "/v2", 405),
        ("OPTIONS", "/v2", 405),
    ],
)
def test_errors_have_one_shape(http: httpx.Client, method: str, path: str, status: int) -> None:
    response = http.request(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert ("allow" in response.headers) == (status == 405)


def test_infer_as_json_and_packed(http: httpx.Client) -> None:
    body = json.dumps({"id": "7", "inputs": [VALUES]})
    answer = {"name": "values", "datatype": "INT32", "shape": [2], "data": [1, 2]}
    for content, headers in ((body.encode(), {}), (gzip.compress(body.encode()), {"content-encoding": "gzip"})):
        response = http.post(MODEL + "/infer", content=content, headers=headers)
        assert response.json()["outputs"] == [answer]
        assert response.json()["id"] == "7"
        assert "pause;dur=" in response.headers["server-timing"]


def test_the_request_id_is_echoed_or_made(http: httpx.Client) -> None:
    assert http.get("/v2", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    assert len(http.get("/v2", headers={"x-request-id": "no good"}).headers["x-request-id"]) == 32


@pytest.mark.parametrize(("status", "header"), [(400, None), (429, "2"), (503, "2"), (501, None)])
def test_openai_routes_have_openais_errors(http: httpx.Client, status: int, header: str | None) -> None:
    response = http.post("/openai/v1/fail", json={"status": status})
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["message"], error["param"]) == ("told to fail", "status")
    assert error["type"] == BY_STATUS[status].openai_type
    assert response.headers.get("retry-after") == header


def test_a_bug_tells_nothing_but_is_logged(http: httpx.Client, echo: RunningComponent) -> None:
    response = http.post(MODEL + "/generate_stream", json={"count": 3, "break_at": 0})
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "a secret detail" in echo.log.read_text()


def test_load_and_unload_move_readiness(http: httpx.Client) -> None:
    assert http.post("/v2/repository/models/counter/unload").status_code == 200
    try:
        refused = http.get("/v2/health/ready")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "7")
        assert http.get(MODEL + "/ready").status_code == 503
        index = http.post("/v2/repository/index", json={}).json()
        assert index[0] == {
            "name": "counter",
            "version": "1",
            "state": "UNAVAILABLE",
            "reason": "the model was unloaded; load it",
        }
        assert http.post("/v2/repository/index", json={"ready": True}).json() == []
    finally:
        assert http.post("/v2/repository/models/counter/load").json() == {"name": "counter", "load": True}
    assert http.get("/v2/health/ready").status_code == 200


def test_metrics_are_kserves_ours_and_the_models(http: httpx.Client) -> None:
    http.post(MODEL + "/infer", json={"inputs": [VALUES]})
    text = http.get("/metrics").text
    for wanted in (
        'request_predict_seconds_count{model_name="counter"}',
        "pilotlight_requests_total",
        "counter_things 3",
    ):
        assert wanted in text


# Limits


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-type": "application/json; charset=latin-1"}, b"{}", 415),
        ({"content-type": "application/json; charset=utf-8"}, b"{}", 400),
        ({"content-encoding": "br"}, b"{}", 415),
        ({"content-encoding": "gzip"}, b"{}", 400),
        ({}, b"\xff\xfe", 400),
        ({}, b"", 400),
        ({"inference-header-content-length": "x"}, b"{}", 400),
        ({"inference-header-content-length": "99"}, b"{}", 400),
        ({}, b"x" * 300_000, 413),
        ({"content-encoding": "gzip"}, gzip.compress(b"x" * 300_000), 413),
    ],
)
def test_bad_bodies(http: httpx.Client, headers: dict[str, str], content: bytes, status: int) -> None:
    response = http.post(MODEL + "/infer", content=content, headers=headers)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]


def test_a_chunked_body_is_cut_at_the_limit(http: httpx.Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100_000):
            sent += 65536
            yield b"x" * 65536

    # The client may still be sending when the server has thrown away as much as it is ready to.
    with contextlib.suppress(httpx.TransportError):
        assert http.post(MODEL + "/infer", content=endless()).status_code == 413
    assert sent < 100_000 * 65536 / 10
    assert http.get("/v2").status_code == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n", b"408"),
        (b"POST /v2/models/counter/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{", b"408"),
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    ],
    ids=["large headers", "slow headers", "a stalled body", "no HTTP", "TLS"],
)
def test_hostile_connections_are_answered_and_closed(
    echo: RunningComponent, request_bytes: bytes, status: bytes
) -> None:
    head, _, body = raw_exchange(echo.port, request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status), head
    assert list(json.loads(body)) == ["error"]


@pytest.mark.parametrize("first", [b"", b"P", b"PR", b"PRI * HTTP/2.0\r\n\r\n"], ids=["silent", "1", "2", "a preface"])
def test_connections_that_stop_early_hang_nothing(echo: RunningComponent, first: bytes) -> None:
    with socket.create_connection(("127.0.0.1", echo.port), timeout=10) as sock:
        sock.sendall(first)
        assert echo.get("/v2/health/live")[0] == 200
        if first != b"PRI * HTTP/2.0\r\n\r\n":
            assert sock.recv(1) == b""


def test_a_request_in_single_bytes_is_understood(echo: RunningComponent) -> None:
    with socket.create_connection(("127.0.0.1", echo.port), timeout=10) as sock:
        for byte in b"PUT / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert sock.recv(12) == b"HTTP/1.1 405"


# Streams and disconnects


def test_a_stream_that_fails_first_keeps_its_status(http: httpx.Client) -> None:
    response = http.post(MODEL + "/generate_stream", json={"count": 3, "fail_at": 0, "status": 429})
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")


def test_a_stream_that_fails_later_ends_with_an_event(http: httpx.Client) -> None:
    response = http.post(MODEL + "/generate_stream", json={"count": 3, "fail_at": 2})
    assert response.status_code == 200
    assert "prefill;dur=1.500" in response.headers["server-timing"]
    assert response.text == 'data: 0\n\ndata: 1\n\ndata: {"error":"told to fail","status":503}\n\n'


@pytest.mark.parametrize("kind", ["streaming", "not streaming"])
def test_a_client_that_leaves_cancels_its_request(echo: RunningComponent, kind: str) -> None:
    name = f"leaver-{kind.replace(' ', '-')}"
    if kind == "streaming":
        path, body = MODEL + "/generate_stream", json.dumps({"count": 1000, "pause_s": 0.05})
    else:
        path, body = MODEL + "/infer", json.dumps({"inputs": [VALUES], "parameters": {"pause_s": 60}})
    request = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\nx-request-id: {name}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    )
    with socket.create_connection(("127.0.0.1", echo.port), timeout=10) as sock:
        sock.sendall(request.encode())
        if kind == "streaming":
            assert sock.recv(64)
        else:
            until(lambda: "pilotlight_requests_in_flight 1.0" in echo.get("/metrics")[1].decode(), 30, "in flight")
    until(lambda: name in cancelled(echo), 30, "cancelled")


# gRPC


def test_the_kserve_methods(channel: grpc.Channel) -> None:
    assert call(channel, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert call(channel, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    assert call(channel, "ModelReady", pb.ModelReadyRequest(name="counter"), pb.ModelReadyResponse).ready
    assert call(channel, "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse).name == "pilotlight"
    metadata = call(channel, "ModelMetadata", pb.ModelMetadataRequest(name="counter"), pb.ModelMetadataResponse)
    assert metadata.inputs[0].name == "values"
    load = pb.RepositoryModelLoadRequest(model_name="counter")
    assert call(channel, "RepositoryModelLoad", load, pb.RepositoryModelLoadResponse).isLoaded
    answer = call(channel, "ModelInfer", infer_message(), pb.ModelInferResponse)
    assert (answer.id, list(answer.outputs[0].contents.int_contents)) == ("7", [1, 2])


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (pb.ModelInferRequest(model_name="nope"), grpc.StatusCode.NOT_FOUND, "no model 'nope'"),
        (pb.ModelInferRequest(model_name="counter"), grpc.StatusCode.INVALID_ARGUMENT, "'values' is missing"),
        (
            pb.ModelInferRequest(model_name="counter", raw_input_contents=[b"x" * 400_000]),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "larger than max",
        ),
    ],
)
def test_grpc_errors(channel: grpc.Channel, message: Any, code: grpc.StatusCode, words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ModelInfer", message, pb.ModelInferResponse)
    assert caught.value.code() is code
    assert words in caught.value.details()


def test_a_cancelled_call_cancels_its_handler(echo: RunningComponent, channel: grpc.Channel) -> None:
    infer = channel.unary_unary(
        SERVICE + "ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
    )
    running_call = infer.future(infer_message(pause_s=60), metadata=[("x-request-id", "grpc-leaver")], timeout=60)
    until(lambda: "pilotlight_requests_in_flight 1.0" in echo.get("/metrics")[1].decode(), 30, "in flight")
    running_call.cancel()
    until(lambda: "grpc-leaver" in cancelled(echo), 30, "cancelled")


def test_health(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService", "counter"):
        status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status
        assert status == health_pb2.HealthCheckResponse.SERVING, service
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    assert next(iter(watch)).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


TRITON = """
import queue, sys
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}")
assert client.is_server_ready() and client.is_model_ready("counter")
assert [m.name for m in client.get_model_repository_index().models] == ["counter", "org/adapter"]
values = triton.InferInput("values", [3], "INT32")
values.set_data_from_numpy(np.array([1, 2, 3], dtype=np.int32))
assert client.infer("counter", [values], parameters={"pause_s": 0.01}).as_numpy("values").tolist() == [1, 2, 3]
got = queue.Queue()
client.start_stream(lambda result, error: got.put((result, error)))
for number in range(3):
    client.async_stream_infer("counter", [values], request_id=str(number), enable_empty_final_response=True)
seen = {}
while len([run for run in seen.values() if run[-1]]) < 3:
    result, error = got.get(timeout=10)
    assert error is None, error
    response = result.get_response()
    seen.setdefault(response.id, []).append(response.parameters["triton_final_response"].bool_param)
assert seen == {str(number): [False, False, False, True] for number in range(3)}, seen
client.async_stream_infer("nope", [values], request_id="9")
result, error = got.get(timeout=10)
assert isinstance(error, InferenceServerException) and "no model 'nope'" in str(error), error
client.stop_stream()
"""


def test_tritons_streaming_client(echo: RunningComponent) -> None:
    ran = subprocess.run([sys.executable, "-c", TRITON, str(echo.port)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


# The drain


def start_stream(component: RunningComponent, count: int, pause_s: float) -> tuple[threading.Thread, list[str]]:
    """Read a stream in a thread; what it received is appended when it has ended."""
    received: list[str] = []
    started = threading.Event()

    def read() -> None:
        body = {"count": count, "pause_s": pause_s}
        with httpx.stream("POST", component.base + MODEL + "/generate_stream", json=body, timeout=30) as response:
            parts = response.iter_text()
            received.append(next(parts))
            started.set()
            received.extend(parts)

    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(30)
    return thread, received


def component(tmp_path: Path, *arguments: str) -> Any:
    port = free_port()
    return running([ECHO, str(port), *arguments], port, tmp_path / "echo.log")


def test_sigterm_lets_streams_end_and_refuses_readiness(tmp_path: Path) -> None:
    with component(tmp_path) as echo:
        thread, received = start_stream(echo, count=80, pause_s=0.1)
        with grpc.insecure_channel(f"127.0.0.1:{echo.port}") as channel:
            infer = channel.unary_unary(
                SERVICE + "ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
            )
            in_flight = infer.future(infer_message(pause_s=6), timeout=30)
            until(lambda: "in_flight 2.0" in echo.get("/metrics")[1].decode(), 30, "both in flight")
            echo.process.send_signal(signal.SIGTERM)
            until(lambda: echo.get("/v2/health/ready")[0] == 503, 30, "not ready")
            assert echo.post(MODEL + "/infer", {"inputs": [VALUES]})[0] == 200
            until(lambda: echo.post(MODEL + "/infer", {"inputs": [VALUES]})[0] == 503, 30, "late requests are refused")
            assert in_flight.result().id == "7"
        thread.join(30)
        assert echo.process.wait(30) == 0
        assert "".join(received).endswith("data: 79\n\n")


def test_an_idle_server_ends_at_once(tmp_path: Path) -> None:
    with component(tmp_path) as echo, httpx.Client(base_url=echo.base) as kept_alive:
        kept_alive.get("/v2")
        echo.process.send_signal(signal.SIGTERM)
        assert echo.process.wait(30) == 0, "a drain may take 300 s"


def test_the_drain_has_an_end(tmp_path: Path) -> None:
    with component(tmp_path, "--drain_timeout_s=1") as echo:
        thread, received = start_stream(echo, count=1000, pause_s=0.1)
        echo.process.send_signal(signal.SIGTERM)
        assert echo.process.wait(30) == 0
        thread.join(30)
        assert "shutting down" in "".join(received)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with component(tmp_path) as echo:
        thread, _ = start_stream(echo, count=1000, pause_s=0.1)
        echo.process.send_signal(signal.SIGTERM)
        until(lambda: echo.get("/v2/health/ready")[0] == 503, 30, "draining")
        echo.process.send_signal(signal.SIGTERM)
        assert echo.process.wait(30) == 128 + signal.SIGTERM
        thread.join(30)


def test_the_concurrency_bound_answers_503(tmp_path: Path) -> None:
    with component(tmp_path, "--max_concurrent_requests=1") as echo:
        thread, _ = start_stream(echo, count=50, pause_s=0.1)
        status, body = echo.post(MODEL + "/infer", {"inputs": [VALUES]})
        assert (status, "in flight" in body.decode()) == (503, True)
        thread.join(30)
        assert echo.post(MODEL + "/infer", {"inputs": [VALUES]})[0] == 200


def test_the_server_imports_neither_vllm_nor_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pilotlight_serving.server\n"
        "print([name for name in ('vllm', 'torch', 'transformers', 'pandas', 'kubernetes') if sys.modules.get(name)])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"


def stream_stream(channel: grpc.Channel) -> Any:
    return channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=lambda answer: answer,
    )


def held_open(first: Any, release: threading.Event) -> Iterator[Any]:
    if first is not None:
        yield first
    release.wait(30)


@pytest.mark.parametrize("first", [infer_message(count=1), None], ids=["answered", "nothing sent"])
def test_a_grpc_stream_with_nothing_to_do_is_ended(tmp_path: Path, first: Any) -> None:
    release = threading.Event()
    with component(tmp_path, "--keep_alive_s", "5") as echo:
        with grpc.insecure_channel(f"127.0.0.1:{echo.port}") as channel, pytest.raises(grpc.RpcError) as ended:
            for _ in stream_stream(channel)(held_open(first, release), timeout=60):
                pass
        release.set()
    assert ended.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "nothing came on this stream for 5 s" in ended.value.details()


def test_a_unary_call_whose_message_never_comes_is_ended(channel: grpc.Channel) -> None:
    release = threading.Event()
    method = channel.stream_unary(
        "/inference.GRPCInferenceService/ServerLive", lambda message: b"", lambda answer: answer
    )
    with pytest.raises(grpc.RpcError) as ended:
        method(held_open(None, release), timeout=20)
    release.set()
    assert ended.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "no message arrived for 1 s" in ended.value.details()


def test_rest_over_http2_is_told_to_speak_http1(echo: RunningComponent) -> None:
    url = f"http://127.0.0.1:{echo.port}/v2"
    ran = subprocess.run(
        ["curl", "-si", "--http2-prior-knowledge", url], capture_output=True, text=True, timeout=20, check=True
    )
    assert ran.stdout.startswith("HTTP/2 505")
    assert "send the request over HTTP/1.1" in ran.stdout


def test_a_message_that_cannot_be_decoded_is_the_clients_fault(channel: grpc.Channel) -> None:
    broken = b"\xff" * 20
    service = "/inference.GRPCInferenceService"
    for ask in (
        lambda: channel.unary_unary(f"{service}/ModelInfer")(broken, timeout=20),
        lambda: list(channel.unary_stream("/grpc.health.v1.Health/Watch")(broken, timeout=20)),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            ask()
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "cannot be decoded" in refused.value.details()
    good = infer_message().SerializeToString()
    stream = channel.stream_stream(
        f"{service}/ModelStreamInfer", response_deserializer=ModelStreamInferResponse.FromString
    )
    answers = list(stream(iter([broken, good]), timeout=20))
    assert "cannot be decoded" in answers[0].error_message
    assert [answer.error_message for answer in answers[1:]] == [""] * (len(answers) - 1), "the stream went on"
    assert len(answers) > 1
