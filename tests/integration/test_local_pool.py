"""`pilotlight up` with its warm pool and real vLLM: three models in one slot, engine and pool killed under a stream."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pooled_platform import PooledPlatform, pooled_platform
from waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 180.0
NAMES = ("model-00", "model-01", "model-02")
GREEDY = {"temperature": 0, "ignore_eos": True}


def endpoint(name: str, folder: Path) -> dict[str, Any]:
    container = {
        "name": "kserve-container",
        "image": "pilotlight/predictor-cpu:0.1.0",
        "command": ["python", "-m", "pilotlight_predictor"],
        "args": [
            f"--model_name={name}",
            f"--model_uri=file://{folder / name}",
            "--engine_arg=max_model_len=1024",
            "--engine_arg=enforce_eager=true",
            "--lease_idle_s=1",
            "--resume_deadline_s=120",
        ],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}},
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": {"serving.kserve.io/deploymentMode": "Knative"}},
        "spec": {"predictor": {"minReplicas": 0, "timeout": 300, "containers": [container]}},
    }


class Platform(PooledPlatform):
    def url(self, name: str, verb: str) -> str:
        return f"http://127.0.0.1:{self.port}/serving/default/{name}/v2/models/{name}/{verb}"

    def generate(self, name: str, max_tokens: int) -> httpx.Response:
        body = {"input_ids": [5, 6, 7], "parameters": {**GREEDY, "max_tokens": max_tokens}}
        answer = httpx.post(self.url(name, "generate"), json=body, timeout=DEADLINE_S)
        assert answer.status_code == 200, answer.text
        return answer

    @contextlib.contextmanager
    def streaming(self, name: str, max_tokens: int) -> Iterator[list[int]]:
        """A stream read in a thread; yields the list its tokens go to once the first is there."""
        tokens: list[int] = []
        failures: list[Any] = []
        started = threading.Event()

        def read() -> None:
            body = {"input_ids": [5, 6, 7], "parameters": {**GREEDY, "max_tokens": max_tokens}}
            with httpx.stream("POST", self.url(name, "generate_stream"), json=body, timeout=DEADLINE_S) as response:
                for line in filter(None, response.iter_lines()):
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        failures.append(event)
                    tokens.extend(event.get("output_ids", []))
                    started.set()

        thread = threading.Thread(target=read)
        thread.start()
        assert started.wait(DEADLINE_S)
        yield tokens
        thread.join(DEADLINE_S)
        assert failures == []


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    models = tmp_path_factory.mktemp("models")
    command = [sys.executable, str(ROOT / "scripts" / "make_models.py"), "--out", str(models), "--preset", "tiny"]
    subprocess.run([*command, "--count", str(len(NAMES))], check=True, timeout=DEADLINE_S)
    with pooled_platform(
        Platform, yaml.safe_dump_all([endpoint(name, models) for name in NAMES]), DEADLINE_S
    ) as running:
        yield running


def test_three_models_share_one_slot(platform: Platform) -> None:
    first = {name: platform.generate(name, 16).json()["output_ids"] for name in NAMES}
    assert len({tuple(ids) for ids in first.values()}) == len(NAMES)
    answers = {name: platform.generate(name, 16) for name in reversed(NAMES)}
    assert {name: answer.json()["output_ids"] for name, answer in answers.items()} == first
    assert ["path=swap" in answer.headers.get("x-pilotlight-lease", "") for answer in answers.values()][1:] == [
        True
    ] * 2
    (engine,) = platform.engine_pids()
    slots = platform.status()["pool"]["slots"]
    assert [slot["slot"] for slot in slots] == ["cpu:0"]
    until(lambda: holders(platform) == [], 30, "every lease given back")
    assert "path=loaded" in platform.generate(NAMES[0], 1).headers["x-pilotlight-lease"]
    assert platform.engine_pids() == {engine}


def test_a_stream_outlives_its_engine_and_the_pool(platform: Platform) -> None:
    with platform.streaming(NAMES[1], 800) as undisturbed:
        pass
    assert len(undisturbed) == 800
    with platform.streaming(NAMES[1], 800) as tokens:
        (engine,) = platform.engine_pids()
        os.kill(engine, signal.SIGKILL)
    assert tokens == undisturbed
    with platform.streaming(NAMES[1], 800) as tokens:
        os.kill(platform.pool_pid(), signal.SIGKILL)
    assert tokens == undisturbed
    for told in (
        "warm pool: slot cpu:0: the engine was lost: the process ended\n",
        f"(pid {engine}) was killed by signal 9",
        "warm pool: ended with code 137",
    ):
        until(partial(lambda line: line in platform.log.read_text(), told), 30, told)


def holders(platform: Platform) -> list[str]:
    return [line["lease_id"] for line in platform.status()["pool"]["leases"] if line["state"] in ("active", "idle")]
