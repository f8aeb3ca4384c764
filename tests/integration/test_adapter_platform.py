"""The example of adapters under `pilotlight up`: a real model, trained adapters of two tenants, one slot, from zero.

One adapter lies in a bucket, the other on a hub.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from model_sources import RangeServer, bucket_of, publish_on_hub, s3_server
from pooled_platform import PooledPlatform, pooled_platform
from waiting import until

from pilotlight_protocol.leases import SERVING

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "inferenceservices" / "examples" / "adapters.yaml"
ADAPTERS = ROOT / "models" / "adapters"
DEADLINE_S = 120.0
TENANTS = {"support": "default", "sales": "acme"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def specs(base: Path, sources: Mapping[str, str]) -> str:
    """The example as it is written, but for where its models lie, whose they are, and how soon they go to zero. Pods
    know of `sources` what their spec says, as in a cluster."""
    text = EXAMPLE.read_text(encoding="utf-8").replace("hf://Qwen/Qwen2.5-0.5B-Instruct", f"file://{base}")
    text = text.replace("s3://acme-adapters/sales", "hf://acme/sales")
    text = text.replace("max_model_len=4096", "max_model_len=1024").replace("lease_idle_s=5", "lease_idle_s=1")
    services = list(yaml.safe_load_all(text))
    for service in services:
        service["metadata"]["namespace"] = TENANTS[service["metadata"]["name"]]
        service["metadata"]["annotations"]["autoscaling.knative.dev/window"] = "6s"
        (container,) = service["spec"]["transformer"]["containers"]
        container["env"] = [{"name": name, "value": value} for name, value in sources.items()]
    return yaml.safe_dump_all(services)


@contextlib.contextmanager
def published(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of whoever fetches the adapters."""
    hub = RangeServer()
    try:
        with s3_server(folder) as options:
            put = bucket_of(options, "acme-adapters")
            for path in (ADAPTERS / "smollm2-tools").iterdir():
                put(f"support/{path.name}", path.read_bytes())
            files = {path.name: path.read_bytes() for path in (ADAPTERS / "smollm2-records").iterdir()}
            publish_on_hub(hub, files, "acme/sales")
            yield {f"AWS_{name.upper()}": value for name, value in options.items()} | {"HF_ENDPOINT": hub.origin}
    finally:
        hub.close()


class Platform(PooledPlatform):
    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            print(self.log.read_text(errors="replace")[-6000:])

    def chat(self, name: str, text: str, **fields: Any) -> tuple[dict[str, Any], str]:
        """The choice, and how its engine was had ("" where one is held)."""
        body = {"model": name, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 64}
        url = f"http://127.0.0.1:{self.port}/serving/{TENANTS[name]}/{name}/openai/v1/chat/completions"
        answer = httpx.post(url, json=body | fields, timeout=DEADLINE_S)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0], answer.headers.get("x-pilotlight-lease", "")

    def calls_the_tool(self) -> str:
        choice, lease = self.chat("support", "How is the weather in Kyoto now?", tools=[WEATHER])
        assert choice["finish_reason"] == "tool_calls", choice
        (call,) = choice["message"]["tool_calls"]
        assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == (
            "get_weather",
            {"city": "Kyoto"},
        )
        return lease

    def writes_the_record(self) -> str:
        choice, lease = self.chat("sales", "In Quito lives Ada, a pilot of 41 years.")
        said = json.loads(choice["message"]["content"])
        assert said == {"name": "Ada", "age": 41, "job": "pilot", "city": "Quito"}
        return lease

    def is_at_zero(self) -> bool:
        """No pod runs, and every lease was given back; one that has ended is still told of for a while."""
        status = self.status()
        held = [lease for lease in status["pool"]["leases"] if lease["state"] in SERVING]
        return not held and not any(row["pods"] for row in status["components"])


@pytest.fixture
def platform(real_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    with published(tmp_path) as sources:
        for name, value in {**sources, "PILOTLIGHT_STORE": str(tmp_path / "store")}.items():
            monkeypatch.setenv(name, value)
        with pooled_platform(Platform, specs(real_model, sources), DEADLINE_S) as running:
            yield running


def test_two_tenants_adapters_answer_as_they_were_trained_and_come_back_from_zero(platform: Platform) -> None:
    assert "path=adapter" not in platform.calls_the_tool()
    assert "path=adapter" in platform.writes_the_record()
    until(platform.is_at_zero, DEADLINE_S, "no pod and no lease")
    assert "path=adapter" in platform.calls_the_tool()
    assert "path=adapter" in platform.writes_the_record()
    assert platform.log.read_text().count(": fork of ") + platform.log.read_text().count(": boot of ") <= 1
