"""`pilotlight up` with an embedding model: at zero, woken by its first request, answered by an engine of the warm pool,
and at zero again, from where the parked engine is back at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pooled_platform import PooledPlatform, pooled_platform
from waiting import until

from pilotlight_protocol.leases import SERVING

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


class Platform(PooledPlatform):
    def at_zero(self) -> bool:
        """No pod runs, and no lease is held; one that has ended is still told of for a minute."""
        status = self.status()
        held = [lease for lease in status["pool"]["leases"] if lease["state"] in SERVING]
        return not held and all(row["running"] == 0 for row in status["components"])

    def embed(self, *texts: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/serving/default/minilm/openai/v1/embeddings"
        answer = httpx.post(url, json={"model": "minilm", "input": list(texts)}, timeout=DEADLINE_S)
        assert answer.status_code == 200, answer.text
        return answer


@pytest.fixture
def platform(embedding_model: Path) -> Iterator[Platform]:
    with pooled_platform(Platform, yaml.safe_dump(endpoint(embedding_model)), DEADLINE_S, *SCALING) as running:
        yield running


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
