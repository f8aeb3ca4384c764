"""The predictor's front on a scripted engine: its OpenAPI document is true, and bad input never breaks it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from component_process import RunningComponent, running, tail
from server_ports import free_port
from waiting import until

pytestmark = pytest.mark.integration

SCRIPTED = str(Path(__file__).with_name("scripted_predictor.py"))


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComponent]:
    port = free_port()
    log = tmp_path_factory.mktemp("scripted") / "scripted.log"
    argv = [SCRIPTED, "--model_name=m", f"--http_port={port}", "--max_output_tokens=64"]
    with running(argv, port, log, model_name="m") as component:
        yield component


def test_schemathesis_finds_nothing(scripted: RunningComponent) -> None:
    ran = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"{scripted.base}/openapi.json",
            "--max-examples=8",
            "--generation-deterministic",
            "--exclude-operation-id=unload",
            # A V2 tensor's shape, datatype and data depend on one another, which JSON Schema cannot say: data that fits
            # the schema may rightly get 400.
            "--exclude-checks=positive_data_acceptance",
            "--no-color",
        ],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:] + tail(scripted.log)


@pytest.mark.parametrize(
    ("verb", "body", "status", "words"),
    [
        ("generate", {"input_ids": [1], "parameters": {"max_tokens": 10**9}}, 400, "max_tokens"),
        ("generate", {"input_ids": [1], "parameters": {"temperature": -1}}, 400, "temperature"),
        ("generate", {"input_ids": [1], "parameters": {"nonsense": 1}}, 400, "nonsense"),
        ("generate", {"input_ids": [5000]}, 400, "5000"),
        ("generate_stream", {"input_ids": []}, 400, "empty"),
        ("generate_stream", {"input_ids": [13]}, 400, "refuses"),
        ("generate_stream", {"input_ids": [1], "parameters": {"stop": ["x"]}}, 400, "transformer"),
        ("infer", {"inputs": [{"name": "input_ids", "datatype": "FP32", "shape": [1], "data": [1.0]}]}, 400, "FP32"),
        ("infer", {"inputs": [{"name": "input_ids", "datatype": "INT32", "shape": [2], "data": [1]}]}, 400, "2"),
        ("infer", {"inputs": []}, 400, "input_ids"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    scripted: RunningComponent, verb: str, body: object, status: int, words: str
) -> None:
    response = httpx.post(f"{scripted.base}/v2/models/m/{verb}", json=body)
    assert response.status_code == status
    assert words in response.json()["error"]
    assert scripted.get("/v2/health/ready")[0] == 200


def test_a_request_that_kills_every_engine_ends_with_an_error_and_the_engine_is_replaced(
    scripted: RunningComponent,
) -> None:
    response = httpx.post(f"{scripted.base}/v2/models/m/generate_stream", json={"input_ids": [14, 1]}, timeout=60)
    assert response.text.endswith(
        'data: {"error":"the scripted engine died (given up after 3 resumes)","status":503}\n\n'
    )
    until(lambda: scripted.get("/v2/health/ready")[0] == 200, 30, "ready again")
    assert httpx.post(f"{scripted.base}/v2/models/m/generate", json={"input_ids": [1]}).status_code == 200


def test_a_wrong_flag_ends_the_process_with_its_reason() -> None:
    argv = [sys.executable, "-m", "pilotlight_predictor", f"--http_port={free_port()}", "--model_uri=bundled://nope"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "nope" in ran.stderr


def test_help_is_ours() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pilotlight_predictor", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "--kv_watermark" in ran.stdout
    assert "--predictor_host" not in ran.stdout
