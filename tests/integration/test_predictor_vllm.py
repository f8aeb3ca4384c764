"""The predictor with real vLLM: HTTP and gRPC on one port, real clients, aborts, limits, the drain, a killed engine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from component_process import RunningComponent, running
from server_ports import free_port
from waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PROMPT = [5, 6, 7, 8]
GREEDY = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
LONG = {"max_tokens": 1500, "temperature": 0, "ignore_eos": True}


def url(predictor: RunningComponent, verb: str) -> str:
    return f"{predictor.base}/v2/models/demo/{verb}"


def generate(predictor: RunningComponent, **parameters: Any) -> dict[str, Any]:
    body = {"input_ids": PROMPT, "parameters": {**GREEDY, **parameters}}
    response = httpx.post(url(predictor, "generate"), json=body, timeout=60)
    assert response.status_code == 200, response.text
    return dict(response.json())


def running_requests(predictor: RunningComponent) -> float:
    """vLLM's own gauge."""
    text = httpx.get(predictor.base + "/metrics", timeout=30).text
    (line,) = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
    return float(line.rsplit(" ", 1)[1])


def test_all_ways_give_the_same_tokens(predictor: RunningComponent) -> None:
    whole = generate(predictor)
    assert whole["usage"]["completion_tokens"] == 8
    body = {"input_ids": PROMPT, "parameters": GREEDY}
    with httpx.stream("POST", url(predictor, "generate_stream"), json=body, timeout=60) as response:
        phases = [entry.partition(";dur=") for entry in response.headers["server-timing"].split(", ")]
        assert [name for name, _, _ in phases] == ["queue", "prefill"]
        assert all(float(milliseconds) > 0 for _, _, milliseconds in phases)
        events = [json.loads(line[6:]) for line in response.iter_lines() if line]
    assert [token for event in events for token in event["output_ids"]] == whole["output_ids"]
    assert (events[0]["prompt_tokens"], events[-1]["finish_reason"]) == (4, "length")
    tensors = {
        "parameters": GREEDY,
        "inputs": [
            {"name": "input_ids", "datatype": "INT32", "shape": [2, 5], "data": [*PROMPT, 0, *PROMPT, 9]},
            {"name": "input_lengths", "datatype": "INT32", "shape": [2], "data": [4, 5]},
        ],
    }
    outputs = httpx.post(url(predictor, "infer"), json=tensors, timeout=60).json()["outputs"]
    assert outputs[0]["data"][:8] == whole["output_ids"]
    assert (outputs[1]["data"], outputs[2]["data"]) == ([8, 8], ["length", "length"])


def test_choices_and_logprobs(predictor: RunningComponent) -> None:
    answer = generate(predictor, temperature=1.0, n=3, seed=7, logprobs=2)
    assert [output["index"] for output in answer["outputs"]] == [0, 1, 2]
    assert all(len(output["logprobs"]) == 8 for output in answer["outputs"])
    assert answer["usage"]["completion_tokens"] == 24


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({"max_tokens": 100_000}, "maximum context length"), ({"stop": ["x"]}, "transformer"), ({"top_p": 2}, "top_p")],
)
def test_bad_input_is_told_and_harms_nobody(predictor: RunningComponent, parameters: Any, words: str) -> None:
    response = httpx.post(url(predictor, "generate"), json={"input_ids": PROMPT, "parameters": parameters})
    assert response.status_code == 400
    assert words in response.json()["error"]
    assert generate(predictor)["output_ids"]


TRITON = """
import queue, sys
import numpy as np
import tritonclient.grpc
import tritonclient.http

port = sys.argv[1]
parameters = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
for triton in (tritonclient.http, tritonclient.grpc):
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("demo")
    assert client.get_server_metadata() and client.get_model_metadata("demo")
    ids = triton.InferInput("input_ids", [1, 4], "INT32")
    ids.set_data_from_numpy(np.array([[5, 6, 7, 8]], dtype=np.int32))
    answers = [client.infer("demo", [ids], parameters=parameters)]
    if triton is tritonclient.http:
        ids.set_data_from_numpy(np.array([[5, 6, 7, 8]], dtype=np.int32), binary_data=False)
        wanted = [triton.InferRequestedOutput("output_ids", binary_data=False)]
        answers.append(client.infer("demo", [ids], outputs=wanted, parameters=parameters))
        answers.append(client.infer("demo", [ids], parameters=parameters, request_compression_algorithm="gzip",
                                    response_compression_algorithm="deflate"))
    for answer in answers:
        print(answer.as_numpy("output_ids").tolist())
got = queue.Queue()
client.start_stream(lambda result, error: got.put((result, error)))
client.async_stream_infer("demo", [ids], parameters=parameters, enable_empty_final_response=True)
tokens, final = [], False
while not final:
    result, error = got.get(timeout=30)
    assert error is None, error
    final = result.get_response().parameters["triton_final_response"].bool_param
    if not final:
        tokens += result.as_numpy("output_ids").reshape(-1).tolist()
print([tokens])
client.stop_stream()
"""

KSERVE = """
import asyncio, sys
import numpy as np
import sys
sys.modules["vllm"] = None  # KServe imports it, and torch, wherever it finds it
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

port = sys.argv[1]

async def main():
    ids = InferInput("input_ids", [1, 4], "INT32")
    ids.set_data_from_numpy(np.array([[5, 6, 7, 8]], dtype=np.int32), binary_data=False)
    parameters = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    base = f"http://127.0.0.1:{port}"
    assert await rest.is_server_ready(base) and await rest.is_model_ready(base, "demo")
    answer = await rest.infer(base, InferRequest("demo", [ids], parameters=parameters), model_name="demo")
    print(answer.outputs[0].as_numpy().tolist())
    await rest.close()
    grpc = InferenceGRPCClient(f"127.0.0.1:{port}")
    assert await grpc.is_server_ready() and await grpc.is_model_ready("demo")
    answer = await grpc.infer(InferRequest("demo", [ids], parameters={**parameters, "temperature": 0}))
    print(answer.outputs[0].as_numpy().tolist())
    await grpc.close()

asyncio.run(main())
"""


@pytest.mark.parametrize(("code", "answers"), [(TRITON, 5), (KSERVE, 2)], ids=["tritonclient", "kserve"])
def test_real_clients(predictor: RunningComponent, code: str, answers: int) -> None:
    ran = subprocess.run([sys.executable, "-c", code, str(predictor.port)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [str([generate(predictor)["output_ids"]])] * answers


@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
def test_a_client_that_leaves_frees_the_engine(predictor: RunningComponent, verb: str) -> None:
    body = json.dumps({"input_ids": PROMPT, "parameters": LONG})
    request = (
        f"POST /v2/models/demo/{verb} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    )
    with socket.create_connection(("127.0.0.1", predictor.port), timeout=30) as sock:
        sock.sendall(request.encode())
        until(lambda: running_requests(predictor) == 1, 30, "it runs")
    until(lambda: running_requests(predictor) == 0, 30, "it is aborted")
    assert "sequences_in_flight 0.0" in httpx.get(predictor.base + "/metrics").text


def test_metrics_are_vllms_kserves_and_ours(predictor: RunningComponent) -> None:
    text = httpx.get(predictor.base + "/metrics", timeout=30).text
    for family in ("vllm:kv_cache_usage_perc", "vllm:num_requests_waiting", "request_predict_seconds_count"):
        assert family in text
    assert "pilotlight_predictor_boot_phase_seconds" in text
    help_lines = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(help_lines) == len(set(help_lines))


def test_the_server_stays_light(predictor: RunningComponent) -> None:
    maps = Path(f"/proc/{predictor.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "/vllm/" not in maps


@contextlib.contextmanager
def reading_stream(predictor: RunningComponent, **parameters: Any) -> Any:
    """A long stream read in a thread; yields the list its lines go to."""
    lines: list[str] = []
    started = threading.Event()

    def read() -> None:
        body = {"input_ids": PROMPT, "parameters": {**LONG, "max_tokens": 400, **parameters}}
        with httpx.stream("POST", url(predictor, "generate_stream"), json=body, timeout=200) as response:
            for line in response.iter_lines():
                if line:
                    lines.append(line)
                    started.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(60)
    yield lines
    thread.join(240)


def test_a_stream_outlives_its_engine_and_the_drain_waits(tmp_path: Path) -> None:
    port = free_port()
    argv = ["-m", "pilotlight_predictor", "--model_name=demo", "--model_uri=bundled://demo-awq", f"--http_port={port}"]
    argv.append("--resume_deadline_s=180")
    with running(argv, port, tmp_path / "predictor.log", deadline_s=180) as predictor:
        with reading_stream(predictor) as undisturbed:
            pass
        (host,) = predictor.children()
        with reading_stream(predictor) as lines:
            os.kill(host, signal.SIGKILL)
            until(lambda: predictor.get("/v2/health/ready")[0] == 503, 30, "not ready without an engine")
            response = httpx.post(url(predictor, "generate"), json={"input_ids": PROMPT})
            assert response.status_code == 503
            assert 1 <= int(response.headers["retry-after"]) <= 60
        assert tokens(lines) == tokens(undisturbed)
        assert len(tokens(lines)) == 400
        assert json.loads(lines[-1].removeprefix("data: "))["finish_reason"] == "length"
        with reading_stream(predictor, temperature=1.0, seed=3) as lines:
            os.kill(predictor.children()[0], signal.SIGKILL)
        last = json.loads(lines[-1].removeprefix("data: "))
        assert last["status"] == 503
        assert "a request with a seed cannot go on" in last["error"]
        assert "\n" not in last["error"]
        until(lambda: predictor.get("/v2/health/ready")[0] == 200, 180, "a new engine")
        with reading_stream(predictor) as lines:
            predictor.process.send_signal(signal.SIGTERM)
        assert tokens(lines) == tokens(undisturbed)
        assert predictor.process.wait(30) == 0
        assert not Path(f"/proc/{host}").exists()


def tokens(lines: list[str]) -> list[int]:
    return [token for line in lines for token in json.loads(line.removeprefix("data: "))["output_ids"]]
