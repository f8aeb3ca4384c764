"""A gateway is killed while it streams, and another one has the exact rest: two processes, a real redis-server, a real
transformer over a scripted engine that counts up from the prompt's last token, so that a rest is the rest.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from component_process import RunningComponent, running
from endpoint_entries import entry, whole
from redis_server import RedisServer
from server_ports import free_port
from tenant_world import TenantWorld
from transformer_process import transformer

from pilotlight_gateway.limits.limit_terms import LimitTerms
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.endpoint_directory import PodsAddress

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SCRIPTED = str(Path(__file__).with_name("scripted_predictor.py"))
TOKENS = 200
SEEN = 60
TENANTS = {"team": LimitTerms(tokens_per_day=100_000, concurrency=1), "other": LimitTerms()}


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningComponent]:
    port, folder = free_port(), tmp_path_factory.mktemp("pods")
    argv = [SCRIPTED, "--model_name=demo", f"--http_port={port}", "--step_s=0.01"]
    with (
        running(argv, port, folder / "predictor.log", model_name="demo"),
        transformer(f"127.0.0.1:{port}", folder / "transformer.log") as component,
    ):
        yield component


class Gateways:
    """Each with a state folder of its own, as on machines of their own; tenants and keys are the same."""

    def __init__(self, folder: Path, pods: RunningComponent, redis: RedisServer) -> None:
        self.folder = folder
        self.keys: dict[str, str] = {}
        self._redis = redis
        self._state = folder / "state"
        self._state.mkdir()
        world = TenantWorld(self._state)
        for tenant, terms in TENANTS.items():
            world.tenant(tenant, TenantSettings(limits=terms, namespaces=("shared",)))
            self.keys[tenant] = world.key(tenant).shown
        world.store.close()
        self._endpoints = folder / "endpoints.json"
        address = PodsAddress(f"http://127.0.0.1:{pods.port}", "demo.shared.localhost")
        made = entry("demo", "shared", pods=address, pods_ready=1, front="pods", lease=None, timeout_s=30.0)
        self._endpoints.write_bytes(msgspec.json.encode(whole(made)))

    @contextlib.contextmanager
    def one(self, name: str, *more: str) -> Iterator[RunningComponent]:
        port = free_port()
        words = ["--host", "127.0.0.1", "--port", str(port), "--endpoints", str(self._endpoints), *more]
        argv = ["-m", "pilotlight_gateway", *words, "--state_dir", str(self._state)]
        environment = {"PILOTLIGHT_REDIS_URL": self._redis.url}
        with running(argv, port, self.folder / f"{name}.log", environment=environment) as gateway:
            yield gateway

    @contextlib.contextmanager
    def stream(
        self, gateway: RunningComponent, name: str, last: int | None = None, tenant: str = "team", **changes: Any
    ) -> Iterator[Events]:
        headers = {"authorization": f"Bearer {self.keys[tenant]}", "x-request-id": name}
        if last is not None:
            headers["last-event-id"] = str(last)
        body = {"model": "demo", "prompt": "Hi", "max_tokens": TOKENS, "temperature": 0, "stream": True, **changes}
        with (
            httpx.Client(timeout=60) as client,
            client.stream("POST", f"{gateway.base}/v1/completions", json=body, headers=headers) as response,
        ):
            yield Events(response)

    def asked(self, gateway: RunningComponent, name: str, last: int | None = None, **changes: Any) -> tuple[int, str]:
        with self.stream(gateway, name, last, **changes) as events:
            return events.status, events.response.read().decode()


class Events:
    """(number, data) of each."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.status = response.status_code
        self._text = ""
        self._pieces = response.iter_text()

    def read(self, most: int | None = None) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        while most is None or len(found) < most:
            event, ended, rest = self._text.partition("\n\n")
            if ended:
                self._text = rest
                found.append(told(event))
                continue
            try:
                self._text += next(self._pieces)
            except (StopIteration, httpx.TransportError):
                break
        return found


def told(event: str) -> tuple[int, str]:
    number = re.search(r"^id: (\d+)$", event, re.MULTILINE)
    return (-1 if number is None else int(number[1])), event.partition("data: ")[2]


def text(events: list[tuple[int, str]]) -> str:
    said = [json.loads(data) for _, data in events if data.startswith("{")]
    assert all("error" not in each for each in said), said[-1]
    return "".join(choice["text"] for each in said for choice in each["choices"])


def nameless(events: list[tuple[int, str]]) -> list[tuple[int, str]]:
    return [(number, re.sub(r'"(id|created)":("[^"]*"|\d+)', "", data)) for number, data in events]


@pytest.fixture
def kept_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.end()


@pytest.fixture
def gateways(tmp_path: Path, pods: RunningComponent, kept_redis: RedisServer) -> Gateways:
    return Gateways(tmp_path, pods, kept_redis)


def test_another_gateway_has_the_exact_rest_of_a_killed_ones_stream(gateways: Gateways) -> None:
    with gateways.one("a") as first, gateways.one("b") as second:
        with gateways.stream(second, "whole") as events:
            undisturbed = events.read()
        assert len(undisturbed) > TOKENS / 2
        with gateways.stream(first, "cut") as events:
            seen = events.read(SEEN)
            first.process.kill()
            seen += events.read()
        assert SEEN <= len(seen) < len(undisturbed)
        assert gateways.asked(second, "cut", seen[-1][0], prompt="another")[0] == 409
        assert gateways.asked(second, "cut", seen[-1][0], tenant="other")[0] == 409
        began_s = time.monotonic()
        with gateways.stream(second, "cut", seen[-1][0]) as events:
            rest = events.read()
        assert time.monotonic() - began_s < 30
        assert text(seen + rest) == text(undisturbed)
        assert nameless(seen + rest) == nameless(undisturbed)
        # It is whole there now, as if it had been made there.
        with gateways.stream(second, "cut", 0) as events:
            assert nameless(events.read()) == nameless(undisturbed)
