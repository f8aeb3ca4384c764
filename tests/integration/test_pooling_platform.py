"""`pilotlight up` with an embedding model: at zero, woken by its first request, answered by an engine of the warm pool,
and at zero again, from where the parked engine is back at once."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from process_table import processes
from server_ports import free_port
from waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DEADLINE_S = 400.0
SCALING = ("--autoscaler", "scale-to-zero-grace-period=1s", "--autoscaler", "stable-window=6s")
EXAMPLE = Path(__file__).parents[2] / "inferenceservices" / "examples" / "embedding.yaml"


def endpoint(model: Path) -> dict[str, Any]:
    """The example, with a model of this machine and a lease that ends at once."""
    spec: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    predictor = {
        "name": "kserve-container",
        "image": "pilotlight/predictor-cpu:0.1.0",
        "command": ["python", "-m", "pilotlight_predictor"],
        "args": ["--model_name=minilm", f"--model_uri=file://{model}", "--lease_idle_s=1"],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}},
    }
    spec["spec"]["predictor"] = {"minReplicas": 0, "timeout": 300, "containers": [predictor]}
    (transformer,) = spec["spec"]["transformer"]["containers"]
    transformer["args"] = ["--model_name=minilm", f"--model_uri=file://{model}"]
    return spec


class Platform:
    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self.port = free_port()
        self.state = folder / "state"
        (folder / "services.yaml").write_text(yaml.safe_dump(spec))
        argv = [sys.executable, "-m", "pilotlight_local", "up", str(folder / "services.yaml"), *SCALING]
        with (folder / "up.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, "--port", str(self.port), "--state-dir", str(self.state)], stdout=log, stderr=log
            )

    def status(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "pilotlight_local", "status", "--json", "--state-dir", str(self.state)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {"pool": {"state": "off", "leases": []}}

    def at_zero(self) -> bool:
        status = self.status()
        return not status["pool"]["leases"] and all(row["running"] == 0 for row in status["components"])

    def embed(self, *texts: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/serving/default/minilm/openai/v1/embeddings"
        answer = httpx.post(url, json={"model": "minilm", "input": list(texts)}, timeout=DEADLINE_S)
        assert answer.status_code == 200, answer.text
        return answer


@pytest.fixture
def platform(embedding_model: Path) -> Iterator[Platform]:
    # Not pytest's folder: its path is too long for a socket, and the marker of our processes must be our own.
    with tempfile.TemporaryDirectory(prefix="pl-") as folder:
        made = Platform(Path(folder), endpoint(embedding_model))
        try:
            until(lambda: made.status()["pool"]["state"] == "ready", DEADLINE_S, "the pool")
            yield made
        finally:
            made.process.kill()
            made.process.wait(10)
            until(lambda: not processes(folder), 30, "no process outlives a killed platform")


def test_an_embedding_model_from_zero_and_back(platform: Platform) -> None:
    first = platform.embed("a cat", "a dog")
    lease = first.headers["x-pilotlight-lease"]
    assert "path=fork" in lease or "path=boot" in lease
    until(platform.at_zero, DEADLINE_S, "pods and lease are gone")
    again = platform.embed("a cat", "a dog")
    assert "path=loaded" in again.headers["x-pilotlight-lease"], "the engine was parked, not ended"
    vectors = [answer.json()["data"][0]["embedding"] for answer in (first, again)]
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-5)
    assert len(vectors[0]) == 384
