"""A gateway is killed while it streams by the short way, from a real engine that it leases; another one goes on with it
in its own process, by a lease of its own."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from component_process import RunningComponent, running
from front_door import DEADLINE_S, QUESTION, endpoint
from pooled_platform import PooledPlatform, pooled_platform
from redis_server import RedisServer
from server_ports import free_port
from waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

TOKENS = 200
SEEN = 8  # events of several tokens each: on an idle machine there are some forty


@contextlib.contextmanager
def gateway(platform: PooledPlatform, redis: RedisServer, log: Path) -> Iterator[RunningComponent]:
    port = free_port()
    argv = ["-m", "pilotlight_gateway", "--host=127.0.0.1", f"--port={port}", "--auth=open"]
    argv += [
        f"--directory=unix://{platform.state}/control.sock",
        f"--pool_url=unix://{platform.state}/pool/run/pool.sock",
    ]
    with running(argv, port, log, environment={"PILOTLIGHT_REDIS_URL": redis.url}) as started:
        yield started


def streamed(at: RunningComponent, name: str, last: str = "", most: int = 999, way: str = "short") -> list[list[str]]:
    """[id, content] of each event."""
    headers = {"x-request-id": name, **({"last-event-id": last} if last else {})}
    body = {"model": "chat", "messages": QUESTION, "max_tokens": TOKENS, "temperature": 0, "stream": True}
    found: list[list[str]] = []
    with httpx.stream(
        "POST", f"{at.base}/v1/chat/completions", json={**body, "ignore_eos": True}, headers=headers, timeout=DEADLINE_S
    ) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["x-pilotlight-way"].startswith(way)
        for line in response.iter_lines():
            if line.startswith("id: "):
                found.append([line[4:], ""])
            elif line.startswith("data: {"):
                event = json.loads(line[6:])
                assert "error" not in event, event
                found[-1][1] = event["choices"][0]["delta"].get("content") or ""
                if len(found) == most:
                    break
    return found


def text(events: list[list[str]]) -> str:
    return "".join(content for _, content in events)


def test_another_gateway_goes_on_by_a_lease_of_its_own(tmp_path: Path, redis: RedisServer) -> None:
    services = yaml.safe_dump(endpoint("chat", "shared"))
    with (
        pooled_platform(PooledPlatform, services, DEADLINE_S) as platform,
        gateway(platform, redis, tmp_path / "a.log") as first,
        gateway(platform, redis, tmp_path / "b.log") as second,
    ):
        undisturbed = streamed(first, "whole")
        seen = streamed(first, "cut", most=SEEN)
        first.process.kill()
        rest = streamed(second, "cut", seen[-1][0])
        assert text(seen + rest) == text(undisturbed)
        assert re.fullmatch(r"\d+\.1", rest[-1][0])
        # Its engine has no more work, and the dead one's lease goes.
        until(
            lambda: [lease["state"] for lease in platform.status()["pool"]["leases"]],
            60,
            "one lease",
            holds=lambda states: "active" not in states,
        )
