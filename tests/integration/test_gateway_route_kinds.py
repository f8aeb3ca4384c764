"""Every kind of route over real engines: a platform's endpoints, one on each way, and others that are down or hang.

The gateway is a process of the test's own beside the platform's, so that endpoints can be what no platform starts.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anthropic
import httpx
import msgspec
import openai
import pytest
import yaml
from component_process import RunningComponent, running
from front_door import DEADLINE_S, QUESTION, FrontDoor, endpoint, entries_of, pool_url
from pooled_platform import pooled_platform
from server_ports import free_port
from waiting import until

from pilotlight_gateway.routing.choosing import share_point
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry, PodsAddress
from pilotlight_protocol.leases import POOL_URL_VARIABLE, LeaseState

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

LEASE_IDLE_S = 1.0
_LEASED = {LeaseState.QUEUED, LeaseState.PLACING, LeaseState.ACTIVE, LeaseState.IDLE}
LONG_TEXT = {"type": "object", "properties": {"a": {"type": "string", "minLength": 60}}, "required": ["a"]}
LONG_JSON = {"type": "json_schema", "json_schema": {"name": "long", "schema": LONG_TEXT}}
ROUTES = """
routes:
- name: assistant
  targets: [default/chat]
  versions: [{version: v1, targets: [default/podded]}]
  rules: [{prompt_tokens_above: 200, targets: [default/podded]}]
- {name: split, targets: [default/chat], canary: {targets: [default/podded], percent: 50}}
- {name: mirrored, targets: [default/chat], mirror: {target: default/podded}}
- {name: mirrored to nobody, targets: [default/chat], mirror: {target: default/hanging, most_running: 2}}
- {name: falling, targets: [default/down, default/gone, default/chat]}
- {name: behind, targets: [default/down, default/podded]}
- {name: content, targets: [default/podded], cascade: {first: [default/chat], mean_logprob_below: -99}}
- {name: doubtful, targets: [default/podded], cascade: {first: [default/chat], mean_logprob_below: -0.000001}}
- {name: refused, targets: [default/podded], cascade: {first: [default/chat], refusals: [%s]}}
- {name: impatient, targets: [default/chat, default/podded], patience_s: 0}
- {name: late, targets: [default/chat]}
"""


@dataclass(frozen=True)
class Answer:
    """Whole or in events, which of the two makes no difference to a test. `said`: the text of it."""

    status: int
    headers: httpx.Headers
    said: str
    models: set[str]

    @property
    def why(self) -> str:
        return str(self.headers.get("x-pilotlight-route", ""))

    @property
    def way(self) -> str:
        return str(self.headers.get("x-pilotlight-way", "")).partition(";")[0]


@dataclass(frozen=True)
class Gateway:
    """`said`: what the model says to the question."""

    door: FrontDoor
    process: RunningComponent
    said: str

    def ask(self, model: str, *, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        body = {"model": model, "messages": QUESTION, "max_tokens": 16, "temperature": 0, **fields}
        answer = httpx.post(f"{self.process.base}/v1/chat/completions", json=body, headers=headers, timeout=DEADLINE_S)
        if answer.status_code != 200:
            return Answer(answer.status_code, answer.headers, answer.text, set())
        told = events_of(answer.text) if fields.get("stream") else [answer.json()]
        parts = [choice.get("delta") or choice.get("message") or {} for each in told for choice in each["choices"]]
        said = "".join(part.get("content") or "" for part in parts)
        return Answer(200, answer.headers, said, {each["model"] for each in told})

    def count(self, metric: str) -> float:
        lines = self.process.get("/metrics")[1].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric))

    def billed(self) -> dict[str, int]:
        """Tokens by endpoint."""
        rows = httpx.get(f"{self.process.base}/v1/usage?by=endpoint", timeout=30).json()["usage"]
        return {row["endpoint"]: row["prompt_tokens"] + row["output_tokens"] for row in rows}

    def has_leases(self) -> bool:
        return any(line["state"] in _LEASED for line in self.door.status()["pool"]["leases"])


def events_of(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def elsewhere(entry: EndpointEntry, name: str, port: int) -> EndpointEntry:
    """An endpoint of the same kind whose pods are at that port."""
    pods = PodsAddress(f"http://127.0.0.1:{port}", f"{name}.default.localhost")
    return msgspec.structs.replace(
        entry, name=name, model_names=(name,), pods=pods, replicas=(), pods_ready=1, front="pods", lease=None, text=None
    )


@pytest.fixture(scope="module")
def door() -> Iterator[FrontDoor]:
    services = [endpoint("chat", "auto"), endpoint("podded", "pods")]
    for service in services:
        service["spec"]["predictor"]["containers"][0]["args"].append(f"--lease_idle_s={LEASE_IDLE_S}")
    # An engine for each of the two: a cascade asks both, and nobody measures how long one waits for the other here.
    with pooled_platform(FrontDoor, yaml.safe_dump_all(services), DEADLINE_S, "--slots=2") as platform:
        until(platform.is_ready, 60, lambda: platform.log.read_text()[-2000:])
        yield platform


@pytest.fixture(scope="module")
def gateway(door: FrontDoor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder, port = tmp_path_factory.mktemp("gateway"), free_port()
    said = door.chat("podded").json()["choices"][0]["message"]["content"]
    real = asyncio.run(entries_of(door))
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen(64)  # the kernel takes connections, and nobody answers
        entries = (
            *(msgspec.structs.replace(entry, pods_ready=1) for entry in real.values()),
            elsewhere(real["podded"], "down", free_port()),
            elsewhere(real["podded"], "hanging", hanging.getsockname()[1]),
        )
        yield from _gateway(door, folder, port, entries, said)


def _gateway(
    door: FrontDoor, folder: Path, port: int, entries: tuple[EndpointEntry, ...], said: str
) -> Iterator[Gateway]:
    endpoints, config = folder / "endpoints.json", folder / "gateway.yaml"
    endpoints.write_bytes(msgspec.json.encode(DirectoryAnswer("e", 1, whole=True, changed=entries)))
    config.write_text(ROUTES % json.dumps(said[:5]), encoding="utf-8")
    argv = ["-m", "pilotlight_gateway", "--host=127.0.0.1", f"--port={port}", f"--endpoints={endpoints}"]
    argv += [f"--config={config}", "--auth=open", f"--state_dir={folder}", "--drain_timeout_s=5"]
    environment = {POOL_URL_VARIABLE: pool_url(door)}
    with running(argv, port, folder / "gateway.log", environment=environment) as process:
        yield Gateway(door, process, said)


@pytest.mark.parametrize("stream", [False, True])
def test_versions_and_the_prompts_length(gateway: Gateway, stream: bool) -> None:
    for headers, way, why in (({}, "short", "target"), ({"x-model-version": "v1"}, "pods", "version")):
        answer = gateway.ask("assistant", headers=headers, stream=stream)
        assert (answer.status, answer.said, answer.models) == (200, gateway.said, {"assistant"})
        assert (answer.way, answer.why) == (way, why)
    long = [{"role": "user", "content": "What is a token? " * 100}]
    answer = gateway.ask("assistant", messages=long, stream=stream)
    assert (answer.status, answer.way, answer.why) == (200, "pods", "rule 1")
    answer = gateway.ask("assistant", headers={"x-model-version": "v1"}, messages=long, stream=stream)
    assert (answer.status, answer.why) == (200, "version")
    assert gateway.ask("assistant", headers={"x-model-version": "v2"}, stream=stream).status == 404


@pytest.mark.parametrize(("name", "way"), [("falling", "short"), ("behind", "pods")])
def test_every_surface_bears_the_routes_name(gateway: Gateway, name: str, way: str) -> None:
    base, asked = gateway.process.base, QUESTION
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", timeout=DEADLINE_S, max_retries=0)
    messages = anthropic.Anthropic(base_url=base, api_key="none", timeout=DEADLINE_S, max_retries=0)
    assert name in {model.id for model in client.models.list()}
    stream = client.chat.completions.create(model=name, messages=asked, max_tokens=16, temperature=0, stream=True)
    assert {chunk.model for chunk in stream} == {name}
    first = client.responses.create(model=name, input="What is a token?", max_output_tokens=8)
    more = client.responses.create(model=name, input="And?", max_output_tokens=8, previous_response_id=first.id)
    assert (first.model, more.model, client.responses.retrieve(first.id).model) == (name, name, name)
    assert more.usage is not None
    assert first.usage is not None
    assert more.usage.input_tokens > first.usage.input_tokens
    streamed: Any = messages.messages.create(model=name, messages=asked, max_tokens=8, stream=True)
    assert next(iter(streamed)).message.model == name
    body = {"text_input": "What is", "parameters": {"max_tokens": 4}}
    generated = httpx.post(f"{base}/v2/models/{quote(name)}/generate", json=body, timeout=DEADLINE_S)
    assert (generated.status_code, generated.json()["model_name"]) == (200, name), generated.text
    assert generated.headers["x-pilotlight-way"].startswith(way)


def test_a_canarys_share_is_the_same_sessions(gateway: Gateway) -> None:
    sessions = [f"s{number}" for number in range(8)]
    chosen = [gateway.ask("split", headers={"x-session-id": session}, max_tokens=2).why for session in sessions * 2]
    assert chosen[:8] == chosen[8:]
    points = [share_point("split", f"default\nsession\n{session}") for session in sessions]
    assert chosen[:8] == ["canary" if point < 50 else "target" for point in points]
    assert set(chosen) == {"canary", "target"}


def test_a_mirror_is_billed_to_nobody(gateway: Gateway) -> None:
    before, tokens = gateway.billed(), gateway.count("pilotlight_gateway_tokens_total")
    copies = gateway.count('pilotlight_gateway_mirrored_total{outcome="answered"}')
    for stream in (False, True):
        answer = gateway.ask("mirrored", stream=stream)
        assert (answer.said, answer.way, answer.why) == (gateway.said, "short", "target")
    until(
        lambda: gateway.count('pilotlight_gateway_mirrored_total{outcome="answered"}') == copies + 2,
        DEADLINE_S,
        lambda: gateway.process.log.read_text()[-2000:],
    )
    until(
        lambda: gateway.billed().get("default/chat", 0) > before.get("default/chat", 0),
        30,
        "what was asked for is billed",
    )
    after = gateway.billed()
    assert after.get("default/podded", 0) == before.get("default/podded", 0)
    taken = after["default/chat"] - before.get("default/chat", 0)
    assert gateway.count("pilotlight_gateway_tokens_total") == tokens + taken


def test_a_mirror_that_hangs_keeps_nobody_waiting(gateway: Gateway) -> None:
    left_out = gateway.count('pilotlight_gateway_mirrored_total{outcome="left out"}')
    for number in range(6):
        answer = gateway.ask("mirrored to nobody", stream=number % 2 == 0)
        assert (answer.status, answer.said) == (200, gateway.said)
    assert gateway.count('pilotlight_gateway_mirrored_total{outcome="left out"}') == left_out + 4


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_target_answers_where_the_first_is_down(gateway: Gateway, stream: bool) -> None:
    for name, way, why in (("falling", "short", "fallback 2; 503"), ("behind", "pods", "fallback 1; 503")):
        answer = gateway.ask(name, stream=stream)
        assert (answer.status, answer.said, answer.models) == (200, gateway.said, {name})
        assert (answer.way, answer.why) == (way, why)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "fields", "way", "why"),
    [
        ("content", {}, "short", "cascade; "),
        ("doubtful", {}, "pods", "escalated; low confidence"),
        ("refused", {}, "pods", "escalated; refusal"),
        ("content", {"response_format": LONG_JSON, "max_tokens": 3}, "pods", "escalated; invalid JSON"),
    ],
)
def test_a_cascade_escalates_when_the_first_answer_is_not_good(
    gateway: Gateway, name: str, fields: dict[str, Any], way: str, why: str, stream: bool
) -> None:
    unbilled = gateway.count("pilotlight_gateway_unbilled_tokens_total")
    answer = gateway.ask(name, stream=stream, **fields)
    assert (answer.status, answer.models, answer.way) == (200, {name}, way), answer
    assert answer.why.startswith(why)
    if not fields:
        assert answer.said == gateway.said
    spent = gateway.count("pilotlight_gateway_unbilled_tokens_total") - unbilled
    escalated = way == "pods"
    assert (spent > 0) == ("x-pilotlight-escalation" in answer.headers) == escalated


def test_a_cold_target_is_woken_while_a_warm_one_answers(gateway: Gateway) -> None:
    def until_cold() -> None:
        until(lambda: not gateway.has_leases(), 60, lambda: gateway.door.status()["pool"])

    until_cold()
    assert gateway.ask("late").status == 200  # so that what a start takes has been seen
    until_cold()
    answer = gateway.ask("late", headers={"x-request-timeout": "0.0001"})
    assert (answer.status, "to start" in answer.said) == (503, True), answer
    assert int(answer.headers["retry-after"]) >= 1
    until_cold()
    answer = gateway.ask("impatient")
    assert (answer.status, answer.way, answer.said) == (200, "pods", gateway.said)
    assert answer.why.startswith("fallback 1; cold 0."), answer.why
    until(lambda: gateway.ask("impatient").why == "target", 60, "the first target was woken")
