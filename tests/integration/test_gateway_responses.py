"""Responses of an endpoint with two replicas: whoever made one, it is read and continued, and pods may go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from component_process import RunningComponent
from fake_token_predictor import FakeTokenPredictor
from gateway_process import GatewayProcess
from redis_server import RedisServer
from transformer_process import MODEL_URI, transformer

from pilotlight_gateway.settings import REDIS_URL_VARIABLE
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.endpoint_directory import PodsAddress, TextFiles

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CONVERSATIONS = 12


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[RunningComponent]]:
    with ExitStack() as stack:
        predictor = stack.enter_context(FakeTokenPredictor().running())
        host = f"127.0.0.1:{predictor.port}"
        yield [stack.enter_context(transformer(host, tmp_path / f"{name}.log")) for name in ("a", "b")]


@pytest.fixture
def gateway(tmp_path: Path, replicas: list[RunningComponent]) -> Iterator[GatewayProcess]:
    with serving(tmp_path / "gateway", replicas) as process:
        yield process


@contextmanager
def serving(folder: Path, replicas: list[RunningComponent]) -> Iterator[GatewayProcess]:
    folder.mkdir()
    addresses = tuple(PodsAddress(pod.base, "demo.shared.localhost") for pod in replicas)
    tenants = {name: TenantSettings() for name in ("acme", "other")}
    text = TextFiles(MODEL_URI)
    process = GatewayProcess(folder, replicas[0].port, tenants, replicas=addresses, pods_ready=2, text=text)
    process.start()
    try:
        yield process
    finally:
        process.stop()


def made(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/responses", json={"model": "demo", "max_output_tokens": 2, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-pilotlight-way"].startswith("pods")
    if not fields.get("stream"):
        return dict(answer.json())
    last = [line for line in answer.text.splitlines() if line.startswith("data: {")][-1]
    return dict(json.loads(last.removeprefix("data: "))["response"])


def answered(pod: RunningComponent) -> float:
    lines = pod.get("/metrics")[1].decode().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("request_predict_seconds_count"))


def test_a_conversation_goes_on_whoever_answers_and_whoever_has_gone(
    gateway: GatewayProcess, replicas: list[RunningComponent]
) -> None:
    with gateway.client("acme") as client, gateway.client("other") as other:
        first = [made(client, input=f"{number}. " * 20, stream=number % 2 == 0) for number in range(CONVERSATIONS)]
        assert all(answered(pod) for pod in replicas), "one of them has made all"
        replicas[0].process.terminate()
        assert replicas[0].process.wait(30) == 0
        for number, before in enumerate(first):
            said = {"role": "user", "content": f"{number}. " * 20}
            items = [said, *before["output"], {"role": "user", "content": "go on"}]
            second = made(client, input="go on", previous_response_id=before["id"], stream=number % 3 == 0)
            assert second["previous_response_id"] == before["id"]
            assert second["usage"]["input_tokens"] == made(client, input=items)["usage"]["input_tokens"]
            third = made(client, input="more", previous_response_id=second["id"])
            assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"]
            assert client.get(f"/v1/responses/{before['id']}").json() == before
            listed = client.get(f"/v1/responses/{second['id']}/input_items").json()["data"]
            assert [item["content"][0]["text"] for item in listed] == ["go on"]
            counted = {"model": "demo", "input": "more", "previous_response_id": second["id"]}
            count = client.post("/v1/responses/input_tokens", json=counted)
            assert count.json()["input_tokens"] == third["usage"]["input_tokens"]
            for who, body in ((other, {}), (client, {"previous_response_id": "resp_none"})):
                unknown = {"model": "demo", "input": "go on", "previous_response_id": before["id"], **body}
                refused = who.post("/v1/responses", json=unknown)
                assert (refused.status_code, refused.json()["error"]["code"]) == (404, "previous_response_not_found")
            assert other.get(f"/v1/responses/{before['id']}").status_code == 404
        assert replicas[1].get(f"/v1/responses/{first[0]['id']}")[0] == 404, "pods keep nothing for anybody"
        assert client.delete(f"/v1/responses/{first[0]['id']}").status_code == 200
        gone = {"model": "demo", "input": "go on", "previous_response_id": first[0]["id"]}
        assert client.post("/v1/responses", json=gone).status_code == 404
        unkept = made(client, input="a", store=False)
        assert client.get(f"/v1/responses/{unkept['id']}").status_code == 404


def test_a_conversation_goes_on_at_another_replica_of_the_gateway(
    replicas: list[RunningComponent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        redis = RedisServer(tmp_path, kept=False)
        redis.start()
        stack.callback(redis.end)
        monkeypatch.setenv(REDIS_URL_VARIABLE, redis.url)
        gateways = [stack.enter_context(serving(tmp_path / name, replicas)) for name in ("one", "two")]
        clients = [stack.enter_context(gateway.client("acme")) for gateway in gateways]
        last = made(clients[0], input="0")
        for number in range(1, 8):
            last = made(clients[number % 2], input="x", previous_response_id=last["id"], stream=number % 3 == 0)
            assert clients[(number + 1) % 2].get(f"/v1/responses/{last['id']}").json() == last
        assert clients[0].delete(f"/v1/responses/{last['id']}").status_code == 200
        assert clients[1].get(f"/v1/responses/{last['id']}").status_code == 404
        other = stack.enter_context(gateways[1].client("other"))
        assert other.get(f"/v1/responses/{last['previous_response_id']}").status_code == 404
