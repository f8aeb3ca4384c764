"""Transformer and predictor front as processes (scripted engine, no vLLM), over REST and over gRPC; real V2 clients.

The scripted engine counts up from the prompt's last token, so the text to expect follows from the vocabulary.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http as triton_http
from component_process import RunningComponent, running
from inline_templates import InlineTemplates
from server_ports import free_port
from text_app import demo_ids
from transformer_process import MODEL_URI, transformer

from pilotlight_text.tokenization.text_loading import load_text

pytestmark = pytest.mark.integration

CODEC = load_text(MODEL_URI, None, InlineTemplates(), {}).codec
SCRIPTED = str(Path(__file__).with_name("scripted_predictor.py"))
REFUSED_TOKEN, VOCABULARY = 13, 1000


def expected_text(prompt: str, count: int) -> str:
    last = demo_ids(prompt, special=True)[-1]
    return CODEC.decode([(last + step) % VOCABULARY for step in range(1, count + 1)])


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComponent]:
    port = free_port()
    argv = [SCRIPTED, "--model_name=demo", f"--http_port={port}", "--step_s=0.005"]
    with running(argv, port, tmp_path_factory.mktemp("scripted") / "log", model_name="demo") as component:
        yield component


@pytest.fixture(scope="module", params=["v2", "grpc-v2"])
def served(
    request: pytest.FixtureRequest, scripted: RunningComponent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningComponent]:
    log = tmp_path_factory.mktemp("transformer") / "log"
    with transformer(f"127.0.0.1:{scripted.port}", log, f"--predictor_protocol={request.param}") as component:
        yield component


def test_generate_and_stream(served: RunningComponent) -> None:
    body = {"text_input": "Once upon", "parameters": {"max_tokens": 6, "temperature": 0.7, "stop_token_ids": [998]}}
    with httpx.Client(base_url=served.base, timeout=30) as http:
        whole = http.post("/v2/models/demo/generate", json=body).json()
        assert whole["text_output"] == expected_text("Once upon", 6)
        assert whole["finish_reason"] == "length"
        assert whole["usage"]["completion_tokens"] == 6
        lines = http.post("/v2/models/demo/generate_stream", json=body).text.split("\n\n")
        assert "".join(httpx.Response(200, text=line[6:]).json()["text_output"] for line in lines if line) == (
            expected_text("Once upon", 6)
        )
        stopped = http.post("/v2/models/demo/generate", json={**body, "stop": expected_text("Once upon", 3)[-2:]})
        assert stopped.json()["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_errors_keep_their_status(served: RunningComponent, stream: bool) -> None:
    body = {"model": "demo", "prompt": [1, REFUSED_TOKEN], "stream": stream}
    answer = httpx.post(served.base + "/v1/completions", json=body, timeout=30)
    assert answer.status_code == 400
    assert "the engine refuses this request" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "prompt"),
    [("completions", {"prompt": "Hi"}), ("chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})],
)
def test_an_error_names_the_parameter(
    served: RunningComponent, path: str, prompt: dict[str, Any], stream: bool
) -> None:
    body = {"model": "demo", "max_tokens": 1_000_000, "stream": stream, **prompt}
    answer = httpx.post(f"{served.base}/v1/{path}", json=body, timeout=30)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == ("max_tokens", "invalid_request_error")
    assert "maximum context length" in error["message"]


def test_triton_http(served: RunningComponent) -> None:
    with triton_http.InferenceServerClient(served.base.removeprefix("http://")) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("demo")
        assert client.get_model_metadata("demo")["inputs"][0]["name"] == "text_input"
        for binary in (True, False):
            texts = triton_http.InferInput("text_input", [2], "BYTES")
            texts.set_data_from_numpy(np.array([b"Once upon", b"A time"], dtype=np.object_), binary_data=binary)
            outputs = [triton_http.InferRequestedOutput("text_output", binary_data=binary)]
            result = client.infer("demo", [texts], outputs=outputs, parameters={"max_tokens": 4}, request_id="7")
            assert [item.decode() if isinstance(item, bytes) else item for item in result.as_numpy("text_output")] == [
                expected_text("Once upon", 4),
                expected_text("A time", 4),
            ]
            assert result.get_response()["id"] == "7"


# In a process of its own: Triton's proto file and KServe's register the same names.
TRITON_GRPC = """
import queue, sys
import numpy as np
import tritonclient.grpc as grpc
arrived = queue.Queue()
with grpc.InferenceServerClient(sys.argv[1]) as client:
    assert client.is_model_ready("demo")
    texts = grpc.InferInput("text_input", [1], "BYTES")
    texts.set_data_from_numpy(np.array([b"Once upon"], dtype=np.object_))
    client.start_stream(lambda result, error: arrived.put((result, error)))
    client.async_stream_infer("demo", [texts], parameters={"max_tokens": 5})
    text, reason = "", b""
    while not reason:
        result, error = arrived.get(timeout=20)
        assert error is None, error
        text += result.as_numpy("text_output")[0].decode()
        reason = result.as_numpy("finish_reason")[0]
    client.stop_stream()
print(reason.decode(), text, sep="|", end="")
"""


def test_triton_grpc_stream(served: RunningComponent) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRITON_GRPC, served.base.removeprefix("http://")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"length|{expected_text('Once upon', 5)}"


def test_logprobs_travel_over_rest_and_are_refused_over_grpc(
    served: RunningComponent, request: pytest.FixtureRequest
) -> None:
    body = {"model": "demo", "prompt": "Once upon", "logprobs": 1, "max_tokens": 2}
    answer = httpx.post(served.base + "/v1/completions", json=body, timeout=30)
    if answer.status_code == 501:
        assert "run the transformer with v2" in answer.json()["error"]["message"]
        assert "grpc-v2" in request.node.name
    else:
        assert "".join(answer.json()["choices"][0]["logprobs"]["tokens"]) == expected_text("Once upon", 2)


SLASHED = "org/name:v1"


def test_a_name_with_slashes_is_served_on_every_route(tmp_path: Path) -> None:
    port = free_port()
    argv = [SCRIPTED, f"--model_name={SLASHED}", f"--http_port={port}"]
    quoted = "org%2Fname:v1"
    with (
        running(argv, port, tmp_path / "predictor.log", model_name=quoted) as scripted,
        transformer(f"127.0.0.1:{port}", tmp_path / "log", f"--model_name={SLASHED}") as served,
        httpx.Client(base_url=served.base, timeout=30) as http,
        openai.OpenAI(base_url=served.base + "/openai/v1", api_key="none", max_retries=0) as client,
        triton_http.InferenceServerClient(f"127.0.0.1:{served.port}") as triton,
    ):
        assert client.models.retrieve(SLASHED).id == SLASHED
        for written in (SLASHED, quoted):
            assert http.get(f"/v1/models/{written}").json()["id"] == SLASHED
            assert http.get(f"/v2/models/{written}/ready").json()["ready"] is True
            body = {"text_input": "Once upon", "parameters": {"max_tokens": 2}}
            answer = http.post(f"/v2/models/{written}/versions/1/generate", json=body).json()
            assert answer["text_output"] == expected_text("Once upon", 2)
            assert httpx.get(f"{scripted.base}/v2/models/{written}/ready").status_code == 200
        answered = client.completions.create(model=SLASHED, prompt="Once upon", max_tokens=2)
        assert answered.choices[0].text == expected_text("Once upon", 2)
        assert triton.is_model_ready(SLASHED)
        text = triton_http.InferInput("text_input", [1], "BYTES")
        text.set_data_from_numpy(np.array([b"Once upon"], dtype=object))
        inferred = triton.infer(SLASHED, [text], parameters={"max_tokens": 2}).as_numpy("text_output")
        assert inferred[0].decode() == expected_text("Once upon", 2)
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("org/other")
        assert caught.value.code == "model_not_found"
