"""A `pilotlight up` with its front door, and the endpoints that tests of it serve."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import yaml
from pooled_platform import PooledPlatform
from process_table import processes
from server_ports import free_port
from waiting import until_async

from pilotlight_gateway.directory.platform_watch import watch
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry
from pilotlight_protocol.leases import POOL_URL_VARIABLE

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


def pool_url(door: FrontDoor) -> str:
    """Where the platform's pool is, as its gateway knows."""
    (gateway,) = processes(str(door.state), "-m", "pilotlight_gateway")
    environment = Path(f"/proc/{gateway}/environ").read_text(encoding="utf-8").split("\0")
    variables = dict(each.partition("=")[::2] for each in environment)
    return variables[POOL_URL_VARIABLE]


async def entries_of(door: FrontDoor) -> dict[str, EndpointEntry]:
    """What the platform tells of its endpoints, by their names."""
    heard: list[DirectoryAnswer] = []
    watching = asyncio.create_task(watch(door.state / "control.sock", heard.append, wait_s=1.0))
    try:
        await until_async(lambda: bool(heard), 30)
    finally:
        watching.cancel()
        await asyncio.wait({watching})
    return {entry.name: entry for entry in heard[0].changed}
