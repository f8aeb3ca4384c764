"""A `pilotlight up` with its front door, and the endpoints that tests of it serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import yaml
from pooled_platform import PooledPlatform
from server_ports import free_port

DEADLINE_S = 240.0
QUICKSTART = Path(__file__).parents[2] / "inferenceservices" / "quickstart.yaml"
QUESTION: list[Any] = [{"role": "user", "content": "What is a token?"}]


class FrontDoor(PooledPlatform):
    def __init__(self, *args: Any) -> None:
        self.gateway_port = free_port()
        super().__init__(*args)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def pods(self, name: str) -> int:
        return sum(row["ready"] for row in self.status()["components"] if row["endpoint"] == name)

    def working(self) -> list[str]:
        """Leases whose engine has work."""
        return [line["lease_id"] for line in self.status()["pool"]["leases"] if line["state"] == "active"]

    def ask(self, model: str, **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": QUESTION, "max_tokens": 16, "temperature": 0, **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=DEADLINE_S)

    def chat(self, model: str, **fields: Any) -> httpx.Response:
        answer = self.ask(model, **fields)
        assert answer.status_code == 200, answer.text
        return answer


def endpoint(name: str, front: str, model_name: str | None = None) -> dict[str, Any]:
    """`model_name`: None for the endpoint's own."""
    spec: dict[str, Any] = yaml.safe_load(QUICKSTART.read_text())
    spec["metadata"]["name"] = name
    spec["metadata"]["annotations"]["pilotlight.dev/front"] = front
    args = spec["spec"]["predictor"]["containers"][0]["args"]
    args[0] = f"--model_name={model_name or name}"
    transformer = spec["spec"]["transformer"]["containers"][0]
    transformer["args"] = [
        f"--model_name={model_name or name}" if arg.startswith("--model_name=") else arg.replace("quickstart", name)
        for arg in transformer["args"]
    ]
    return spec
