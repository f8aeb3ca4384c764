"""`pilotlight up` with its front door: unchanged clients, from zero without a pod, and the same words both ways."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import yaml
from front_door import DEADLINE_S, QUESTION, FrontDoor, endpoint
from pooled_platform import pooled_platform
from waiting import until, until_async

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

_UNDER_WAY = ("validating", "in_progress", "finalizing")


@pytest.fixture(scope="module")
def door() -> Iterator[FrontDoor]:
    services = yaml.safe_dump_all([endpoint("chat", "auto"), endpoint("podded", "pods")])
    with pooled_platform(FrontDoor, services, DEADLINE_S) as running:
        until(running.is_ready, 60, lambda: running.log.read_text()[-2000:])
        yield running


def test_the_first_request_needs_no_pod_and_both_ways_say_the_same(door: FrontDoor) -> None:
    models = httpx.get(f"{door.url}/v1/models", timeout=30).json()
    assert [model["id"] for model in models["data"]] == ["chat", "podded"]
    first = door.chat("chat")
    assert first.headers["x-pilotlight-way"] == "short; no pod is ready"
    assert {"gateway", "lease", "prefill"} <= {
        part.split(";")[0].strip() for part in first.headers["server-timing"].split(",")
    }
    assert door.pods("chat") == door.pods("podded") == 0
    podded = door.chat("default/podded")
    assert podded.headers["x-pilotlight-way"].startswith("pods; ")
    said = [answer.json()["choices"][0]["message"]["content"] for answer in (first, podded, door.chat("chat"))]
    assert said[0]
    assert said == [said[0]] * 3
    assert first.json()["usage"] == podded.json()["usage"]
    assert door.pods("podded") == 2


def test_clients_that_do_not_know_the_gateway(door: FrontDoor) -> None:
    client = openai.OpenAI(base_url=f"{door.url}/v1", api_key="none", timeout=DEADLINE_S, max_retries=0)
    said = door.chat("chat").json()["choices"][0]["message"]["content"]
    asked: Any = QUESTION
    for model in ("chat", "podded"):
        stream = client.chat.completions.create(model=model, messages=asked, max_tokens=16, temperature=0, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == said
        response = client.responses.create(model=model, input="What is a token?", max_output_tokens=8)
        assert response.output_text
    kept = client.responses.create(model="chat", input="What is a token?", max_output_tokens=8)
    assert client.responses.retrieve(kept.id).id == kept.id
    messages = anthropic.Anthropic(base_url=door.url, api_key="none", timeout=DEADLINE_S, max_retries=0)
    answered: Any = messages.messages.create(model="chat", messages=asked, max_tokens=16, extra_body={"temperature": 0})
    assert answered.content[0].text == said


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/v1/chat/completions", {"model": "nope", "messages": QUESTION}, 404, ("error", "code")),
        ("/v1/messages", {"model": "nope", "messages": QUESTION, "max_tokens": 1}, 404, ("error", "type")),
        ("/v2/models/nope/infer", {"inputs": []}, 404, ("error",)),
        ("/v1/chat/completions", {"messages": QUESTION}, 400, ("error", "message")),
        (
            "/v1/chat/completions",
            {"model": "chat", "messages": [], "n": "x"},
            400,
            ("error", "param"),
        ),
        ("/v2/models/chat/versions/7/generate", {"text_input": "a"}, 404, ("error",)),
        ("/v1/nowhere", {"model": "chat"}, 404, ("error", "message")),
    ],
)
def test_refusals_have_the_shape_of_their_surface(
    door: FrontDoor, path: str, body: dict[str, Any], status: int, error: tuple[str, ...]
) -> None:
    answer = httpx.post(f"{door.url}{path}", json=body, timeout=60)
    assert answer.status_code == status, answer.text
    said = answer.json()
    for name in error:
        said = said[name]
    assert isinstance(said, str)


@pytest.mark.parametrize("model", ["chat", "podded"])
async def test_a_client_that_leaves_ends_its_work(door: FrontDoor, model: str) -> None:
    def working() -> list[str]:
        return [line["lease_id"] for line in door.status()["pool"]["leases"] if line["state"] == "active"]

    body = {"model": model, "messages": QUESTION, "max_tokens": 900, "ignore_eos": True, "stream": True}
    async with (
        httpx.AsyncClient(timeout=DEADLINE_S) as client,
        client.stream("POST", f"{door.url}/v1/chat/completions", json=body) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data: ") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                break
        assert working()
    await until_async(lambda: asyncio.to_thread(lambda: not working()), 30, "the engine works on for nobody")


def test_a_request_that_is_named_runs_once(door: FrontDoor) -> None:
    body = {"model": "chat", "messages": QUESTION, "max_tokens": 16, "temperature": 1.5, "stream": True}

    def asked(**headers: str) -> list[str]:
        answer = httpx.post(
            f"{door.url}/v1/chat/completions",
            json=body,
            headers={"x-request-id": "once", **headers},
            timeout=DEADLINE_S,
        )
        assert answer.status_code == 200, answer.text
        return answer.text.split("\n\n")

    with ThreadPoolExecutor() as threads:
        first, second = threads.map(lambda _: asked(), range(2))
    assert first == second == asked()
    assert first[2:] == asked(**{"last-event-id": "2"})
    body["max_tokens"] = 15
    other = httpx.post(f"{door.url}/v1/chat/completions", json=body, headers={"x-request-id": "once"}, timeout=60)
    assert other.status_code == 409


def test_v2_and_the_tokenizer(door: FrontDoor) -> None:
    generated = httpx.post(
        f"{door.url}/v2/models/default%2Fchat/generate",
        json={"text_input": "A", "parameters": {"max_tokens": 3, "temperature": 0}},
        timeout=60,
    ).json()
    assert generated["model_name"] == "default/chat"
    tokens = httpx.post(f"{door.url}/tokenize", json={"model": "chat", "prompt": "A token"}, timeout=60).json()
    assert tokens["count"] == len(tokens["tokens"])
    assert httpx.get(f"{door.url}/v2/models/chat", timeout=60).json()["platform"] == "pilotlight_gateway"


def test_a_batch_by_openais_client(door: FrontDoor, tmp_path: Path) -> None:
    client = openai.OpenAI(base_url=f"{door.url}/v1", api_key="none", timeout=DEADLINE_S, max_retries=0)
    body = {"model": "chat", "messages": QUESTION, "max_tokens": 16, "temperature": 0}
    lines = [
        {"custom_id": f"q{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number in range(20)
    ]
    source = tmp_path / "requests.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    with source.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    batch = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
    ended = until(
        lambda: client.batches.retrieve(batch.id), DEADLINE_S, holds=lambda seen: seen.status not in _UNDER_WAY
    )
    assert ended.status == "completed"
    written = [json.loads(line) for line in client.files.content(str(ended.output_file_id)).text.splitlines()]
    assert {line["custom_id"] for line in written} == {line["custom_id"] for line in lines}
    said = door.chat("chat").json()["choices"][0]["message"]["content"]
    assert {line["response"]["body"]["choices"][0]["message"]["content"] for line in written} == {said}


@pytest.mark.parametrize("model", ["chat", "podded"])
def test_a_job_is_answered_both_ways(door: FrontDoor, model: str) -> None:
    said = door.chat("chat").json()["choices"][0]["message"]["content"]
    body = {"model": model, "messages": QUESTION, "max_tokens": 16, "temperature": 0}
    begun = httpx.post(f"{door.url}/v1/chat/completions", json=body, headers={"prefer": "respond-async"}, timeout=60)
    assert begun.status_code == 202
    job = until(
        lambda: httpx.get(f"{door.url}{begun.headers['location']}", timeout=60).json(),
        DEADLINE_S,
        holds=lambda seen: seen["status"] not in ("queued", "running"),
    )
    assert job["response"]["body"]["choices"][0]["message"]["content"] == said


def test_from_the_first_tenant_on_keys_are_asked_for(door: FrontDoor) -> None:
    """The last one: the door does not open again."""

    def pilotlight(*words: str) -> str:
        command = [sys.executable, "-m", "pilotlight_local", *words, "--state-dir", str(door.state)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def models(key: str) -> httpx.Response:
        return httpx.get(f"{door.url}/v1/models", headers={"x-api-key": key}, timeout=30)

    pilotlight("tenant", "create", "default", "--requests-per-minute=2")
    pilotlight("tenant", "create", "other")
    until(lambda: httpx.get(f"{door.url}/v1/models", timeout=30).status_code == 401, 10, "the door closes")
    mine, theirs, admin = (
        pilotlight("key", "create", *words) for words in (["default"], ["other"], ["other", "--role=admin"])
    )
    until(lambda: models(admin).status_code == 200, 10, "the last key is known")
    assert [model["id"] for model in models(mine).json()["data"]] == ["chat", "podded"]
    assert models(theirs).json()["data"] == []
    body = {"model": "chat", "messages": QUESTION, "max_tokens": 2}
    url = f"{door.url}/v1/chat/completions"
    assert httpx.post(url, json=body, headers={"authorization": f"Bearer {theirs}"}, timeout=60).status_code == 404
    answers = [httpx.post(url, json=body, headers={"authorization": f"Bearer {mine}"}, timeout=60) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) > 0
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"
    refused = httpx.get(f"{door.url}/v1/tenants", headers={"x-api-key": mine}, timeout=30)
    assert refused.status_code == 403
    tenants = httpx.get(f"{door.url}/v1/tenants", headers={"x-api-key": admin}, timeout=30).json()["tenants"]
    assert [tenant["name"] for tenant in tenants] == ["default", "other"]
    (key_id,) = (line.split()[0] for line in pilotlight("key", "list", "default").splitlines())
    pilotlight("key", "revoke", "default", key_id)
    until(lambda: models(mine).status_code == 401, 10, "the key is refused")
    log = (door.state / "gateway" / "logs" / "gateway.log").read_text()
    assert not any(key in log for key in (mine, theirs, admin))
