"""Routes of the configuration file, through a real gateway before canned endpoints: reload, fallbacks, names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from component_process import RunningComponent, running
from endpoint_entries import entry, whole
from pods_backend import PodsBackend
from server_ports import free_port
from waiting import until_async

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


class Front:
    """A gateway over two endpoints of the namespace `prod`, which nobody may use but by a route."""

    def __init__(self, gateway: RunningComponent, config: Path, client: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.config = config
        self.client = client

    def configure(self, text: str) -> None:
        self.config.write_text(text, encoding="utf-8")

    async def ask(self, model: str, **fields: Any) -> tuple[int, dict[str, Any], dict[str, str]]:
        async with self.client.post("/v1/chat/completions", json=chat(model, **fields)) as answer:
            return answer.status, await answer.json(), dict(answer.headers)

    async def answers_from(self, model: str) -> str:
        status, body, _ = await self.ask(model)
        return str(body["choices"][0]["message"]["content"]) if status == 200 else str(status)

    async def metric(self, line: str) -> bool:
        async with self.client.get("/metrics") as answer:
            return line in await answer.text()


def chat(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}


def routes(*targets: str, name: str = "smart") -> str:
    return f"routes:\n- name: {name}\n  label: {name}\n  targets: [{', '.join(targets)}]\n"


@pytest_asyncio.fixture
async def backends() -> AsyncIterator[tuple[PodsBackend, PodsBackend]]:
    async with PodsBackend("large").serving() as large, PodsBackend("small").serving() as small:
        yield large, small


@pytest_asyncio.fixture
async def front(backends: tuple[PodsBackend, PodsBackend], tmp_path: Path) -> AsyncIterator[Front]:
    endpoints, config, port = tmp_path / "endpoints.json", tmp_path / "gateway.yaml", free_port()
    endpoints.write_bytes(
        msgspec.json.encode(whole(*(backend.entry() for backend in backends), entry("texts", "prod")))
    )
    config.write_text(routes("prod/large", "prod/small"), encoding="utf-8")
    argv = ["-m", "pilotlight_gateway", f"--port={port}", f"--endpoints={endpoints}", "--auth=open"]
    argv += [f"--config={config}", "--host=127.0.0.1", f"--state_dir={tmp_path / 'state'}"]
    entered = running(argv, port, tmp_path / "gateway.log")
    gateway = await asyncio.to_thread(entered.__enter__)
    try:
        async with aiohttp.ClientSession(gateway.base, timeout=aiohttp.ClientTimeout(60)) as client:
            yield Front(gateway, config, client)
    finally:
        await asyncio.to_thread(entered.__exit__, None, None, None)


async def test_a_reload_in_the_middle_of_a_stream(front: Front, backends: tuple[PodsBackend, PodsBackend]) -> None:
    large, _ = backends
    large.flows.clear()
    async with front.client.post("/v1/chat/completions", json=chat("smart", stream=True)) as answer:
        assert answer.headers["x-pilotlight-route"] == "target"
        first = await answer.content.readuntil(b"\n\n")
        front.configure(routes("prod/small"))
        await until_async(lambda: front.metric('config_reloads_total{outcome="applied"} 1.0'))
        assert await front.answers_from("smart") == "I am small"
        large.flows.set()
        events = (first + await answer.read()).decode().split("\n\n")
    told = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: {")]
    assert [each["choices"][0]["delta"]["content"] for each in told] == [f"large{number} " for number in range(8)]
    assert {each["model"] for each in told} == {"smart"}


async def test_a_broken_file_changes_nothing_and_is_told(front: Front) -> None:
    front.configure("routes: [")
    await until_async(lambda: front.metric('config_reloads_total{outcome="refused"} 1.0'))
    assert await front.metric("pilotlight_gateway_config_broken 1.0")
    assert front.gateway.get("/readyz")[0] == 200
    assert await front.answers_from("smart") == "I am large"
    assert "gateway.yaml:2: no YAML" in front.gateway.log.read_text()
    front.config.unlink()
    await until_async(lambda: front.metric('config_reloads_total{outcome="refused"} 2.0'))
    front.configure(routes("prod/small", name="other"))
    front.gateway.process.send_signal(1)
    await until_async(lambda: front.metric("pilotlight_gateway_config_broken 0.0"))
    assert await front.answers_from("smart") == "404"
    assert await front.answers_from("other") == "I am small"


async def test_the_next_target_answers_where_the_first_cannot(
    front: Front, backends: tuple[PodsBackend, PodsBackend]
) -> None:
    large, small = backends
    large.answers = [503]
    status, body, headers = await front.ask("smart")
    assert (status, body["model"], body["choices"][0]["message"]["content"]) == (200, "smart", "I am small")
    assert headers["x-pilotlight-route"] == "fallback 1; 503"
    assert [request["model"] for _, request in small.requests] == ["small"]
    assert await front.metric('pilotlight_gateway_routed_total{label="smart",why="fallback 1"} 1.0')


async def test_names_are_listed_and_a_stream_bears_its_own(front: Front) -> None:
    async with front.client.get("/v1/models") as answer:
        listed = [card["id"] for card in (await answer.json())["data"]]
    assert listed[0] == "smart"


@pytest.mark.parametrize(("text", "said"), [("routes: [", "no YAML"), ("router: []", "unknown field `router`")])
def test_a_gateway_does_not_start_with_a_broken_file(tmp_path: Path, text: str, said: str) -> None:
    endpoints, config = tmp_path / "endpoints.json", tmp_path / "gateway.yaml"
    endpoints.write_bytes(msgspec.json.encode(whole()))
    config.write_text(text, encoding="utf-8")
    argv = ["-m", "pilotlight_gateway", f"--endpoints={endpoints}", "--auth=open", f"--config={config}"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        ended = subprocess.run([sys.executable, *argv], capture_output=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert said in ended.stderr.decode()


async def test_a_canary_that_fails_is_taken_back(
    front: Front, backends: tuple[PodsBackend, PodsBackend], tmp_path: Path
) -> None:
    _, small = backends
    small.answers = [500] * 1000
    rollout = "rollout: {steps: [50, 100], step_s: 3600}"
    front.configure(routes("prod/large") + f"  canary:\n    targets: [prod/small]\n    {rollout}\n")
    await until_async(lambda: front.metric('canary_percent{label="smart"} 50.0'))

    async def next_ones_all_answer() -> bool:
        statuses = [(await front.ask("smart", user=f"u{number}"))[0] for number in range(20)]
        return set(statuses) == {200}

    await until_async(next_ones_all_answer)
    assert await front.metric('pilotlight_gateway_canary_percent{label="smart"} 0.0')
    assert await front.metric('pilotlight_gateway_canaries_taken_back_total{label="smart"} 1.0')
    failed = len(small.requests)
    assert failed < 40
    assert await next_ones_all_answer()
    assert len(small.requests) == failed
    state = tmp_path / "state" / "rollouts.json"
    await until_async(lambda: state.exists() and b"requests failed" in state.read_bytes())


async def test_a_mirror_sees_copies_and_the_client_nothing_of_it(
    front: Front, backends: tuple[PodsBackend, PodsBackend]
) -> None:
    _, small = backends
    small.answers = [500] * 5
    front.configure(routes("prod/large") + "  mirror: {target: prod/small}\n")
    await until_async(lambda: front.metric('config_reloads_total{outcome="applied"} 1.0'))
    for _ in range(5):
        assert (await front.ask("smart"))[0] == 200
    await until_async(lambda: len(small.requests) == 5)
    headers, body = small.requests[0]
    assert (headers["x-pilotlight-mirror"], body["model"]) == ("1", "small")
    async with front.client.post("/v1/chat/completions", json=chat("smart", stream=True)) as answer:
        assert b"small" not in await answer.read()
    await until_async(lambda: front.metric('pilotlight_gateway_mirrored_total{outcome="answered"} 6.0'))
    assert await front.metric('pilotlight_gateway_tokens_total{kind="prompt"} 15.0')


async def test_an_endpoint_on_the_short_way_knows_the_routes_name(front: Front) -> None:
    front.configure(routes("prod/texts") + routes("prod/small", name="texts").removeprefix("routes:\n"))
    await until_async(lambda: front.metric('config_reloads_total{outcome="applied"} 1.0'))
    for name, way in (("smart", "short"), ("prod/texts", "short"), ("texts", "pods")):
        asked = {"model": name, "prompt": "What is a token?"}
        async with front.client.post("/tokenize", json=asked) as answer:
            assert answer.headers["x-pilotlight-way"].startswith(way), await answer.text()
            assert answer.status == 200
            if way == "short":
                assert (await answer.json())["count"] > 0
    async with front.client.get("/v2/models/smart") as answer:
        assert (await answer.json())["name"] == "smart"
