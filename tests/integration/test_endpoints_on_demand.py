"""Endpoints on demand of a `pilotlight up` without a file: made, called at once, changed, paid for, deleted, kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from front_door import DEADLINE_S, QUESTION, FrontDoor
from pooled_platform import PooledPlatform, pooled_platform
from waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

CONFIG = """
prices:
  currency: EUR
  default: {prompt: 10, cached: 1, output: 40, slot_second: 0.001}
"""
MODEL = ["--model=bundled://demo-awq", "--max-model-len=1024", "--enforce-eager"]


class Door(FrontDoor):
    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pilotlight_local", *words, f"--url={self.url}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def pilotlight(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    config = tmp_path_factory.mktemp("config") / "gateway.yaml"
    config.write_text(CONFIG)
    with pooled_platform(Door, None, DEADLINE_S, f"--gateway-config={config}") as running:
        until(running.is_ready, 60, lambda: running.log.read_text()[-2000:])
        yield running


def test_an_endpoint_answers_as_soon_as_it_is_made(door: Door) -> None:
    assert "no endpoints yet" in door.pilotlight("endpoint", "list")
    said = door.pilotlight("endpoint", "create", "chat", *MODEL)
    client = openai.OpenAI(base_url=f"{door.url}/v1", api_key="none", timeout=DEADLINE_S, max_retries=0)
    answer = client.chat.completions.create(model="chat", messages=QUESTION, max_tokens=16)
    assert answer.choices[0].message.content
    assert f"curl {door.url}/v1/chat/completions" in said
    assert "just like that" in door.pilotlight("endpoint", "create", "chat", *MODEL)
    row = door.pilotlight("endpoint", "list").splitlines()[1].split()
    assert row[:4] == ["default", "chat", "Zero", "request"]
    shown = json.loads(door.pilotlight("endpoint", "get", "chat", "--json"))
    assert (shown["url"], shown["spec"]["enforce_eager"]) == (f"{door.url}/v1", True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "broken", "--model=bundled://nothing"], "'model'"),
        (["create", "broken", "--model=file:///etc"], "'model' cannot be file://"),
        (["create", "Broken", "--model=bundled://demo-awq"], "'name' must be"),
        (["create", "chat", "--model=bundled://demo-bf16"], "another model"),
        (["get", "nothing"], "there is no endpoint 'nothing'"),
        (["update", "chat", "--max-replicas=2", "--generation=7"], "generation 1"),
    ],
)
def test_what_is_refused_says_why(door: Door, words: list[str], said: str) -> None:
    door.pilotlight("endpoint", "create", "chat", *MODEL)
    done = door.run("endpoint", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert str(door.state) not in done.stderr
    assert "Traceback" not in done.stderr


def usage(door: Door) -> dict[str, Any]:
    told = httpx.get(f"{door.url}/v1/usage?by=endpoint&endpoint=chat", timeout=60)
    assert told.status_code == 200, told.text
    return dict(told.json()["total"])


def test_what_was_taken_is_what_the_answers_said(door: Door) -> None:
    door.pilotlight("endpoint", "create", "chat", *MODEL)
    door.ask("chat")
    before = usage(door)
    answers = [door.ask("chat", n=2, temperature=1).json()["usage"], door.ask("chat", max_tokens=3).json()["usage"]]
    client = openai.OpenAI(base_url=f"{door.url}/v1", api_key="none", timeout=DEADLINE_S, max_retries=0)
    for _ in range(2):  # asked for twice by one id: it ran once
        stream = client.chat.completions.create(
            model="chat",
            messages=QUESTION,
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"x-request-id": "billed-once"},
        )
        (told,) = [chunk.usage for chunk in stream if chunk.usage is not None]
    answers.append(told.model_dump())
    said = {
        "requests": 3,
        "prompt_tokens": sum(each["prompt_tokens"] for each in answers),
        "cached_tokens": sum((each["prompt_tokens_details"] or {}).get("cached_tokens") or 0 for each in answers),
        "output_tokens": sum(each["completion_tokens"] for each in answers),
    }

    def taken() -> dict[str, Any]:
        now = usage(door)
        return {name: now[name] - before[name] for name in said}

    until(lambda: taken() == said, 20, lambda: f"{taken()} is not {said}")
    until(lambda: usage(door)["slot_seconds"] > 0, 30, "the pool has told of its slots")
    now = usage(door)
    fresh = now["prompt_tokens"] - now["cached_tokens"]
    exact = (fresh * 10 + now["cached_tokens"] + now["output_tokens"] * 40) / Decimal(10**6)
    assert Decimal(now["cost"]) == exact + Decimal(str(now["slot_seconds"])) / 1000
    shown = json.loads(door.pilotlight("endpoint", "get", "chat", "--json"))
    assert shown["usage"]["currency"] == "EUR"
    assert shown["cold_starts"][-1]["way"].startswith("short")
    assert shown["cold_starts"][-1]["lease"]
    assert "COST EUR" in door.pilotlight("usage")
    headings, row, *_ = door.pilotlight("usage", "--csv", "--by=endpoint").splitlines()
    assert headings.startswith("endpoint,requests,prompt_tokens")
    assert row.startswith("default/chat,")


def test_a_change_is_rolled_out_and_the_next_platform_has_it(door: Door) -> None:
    door.pilotlight("endpoint", "create", "chat", *MODEL)
    assert "generation 2" in door.pilotlight("endpoint", "update", "chat", "--max-output-tokens=4", "--generation=1")
    until(lambda: door.ask("chat", max_tokens=8).status_code == 400, DEADLINE_S, "the new bound holds")
    os.kill(door.process.pid, signal.SIGTERM)
    door.process.wait(60)
    again = Door.__new__(Door)
    again.gateway_port = door.gateway_port
    PooledPlatform.__init__(again, door.state.parent, None)
    try:
        until(again.is_ready, 60, lambda: again.log.read_text()[-2000:])
        shown = json.loads(again.pilotlight("endpoint", "get", "chat", "--json"))
        assert (shown["generation"], shown["spec"]["max_output_tokens"]) == (2, 4)
        assert again.ask("chat", max_tokens=4).status_code == 200
        assert "deleted" in again.pilotlight("endpoint", "delete", "chat")
        assert again.ask("chat", max_tokens=4).status_code == 404
        assert "nothing was to be deleted" in again.pilotlight("endpoint", "delete", "chat")
        assert not list(Path(again.state, "endpoints").iterdir())
    finally:
        again.end()
