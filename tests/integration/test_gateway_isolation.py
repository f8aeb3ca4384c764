"""32 tenants at one gateway: nothing of one is read, changed or told from nothing by another, on any route."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenants_gateway import COMMON, TenantsGateway, host_of, own_model, tenant, tenants_gateway
from waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(170)]

TENANTS = 32
NOBODYS = "nobody-s"
"""As long as the name of a tenant's model, and of none."""
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
OVER_MODELS: dict[str, dict[str, Any]] = {
    "chat/completions": CHAT,
    "completions": {"prompt": "hello"},
    "responses": {"input": "hello"},
    "messages": {**CHAT, "max_tokens": 8},
    "embeddings": {"input": "hello"},
    "rerank": {"query": "a", "documents": ["b"]},
    "score": {"text_1": "a", "text_2": "b"},
    "tokenize": {"prompt": "hello"},
    "detokenize": {"tokens": [1, 2]},
    "messages/count_tokens": CHAT,
}
V2_BODY = {"text_input": "hello", "inputs": [], "parameters": {"max_tokens": 4}}
Asked = tuple[str, str, Any, dict[str, str]]
"""Method, target, JSON body, headers; `{name}` and `{tenant}` stand for whom it is about."""

ABOUT_A_NAME: list[Asked] = [
    *(
        ("POST", f"{prefix}/{path}", {"model": "{name}", **body}, {})
        for prefix in ("/v1", "/openai/v1")
        for path, body in OVER_MODELS.items()
    ),
    ("POST", "/v1/chat/completions", {"model": "{name}", "stream": True, **CHAT}, {}),
    ("POST", "/v1/chat/completions", {"model": "{tenant}/{name}", **CHAT}, {}),
    ("POST", "/v1/chat/completions", {"model": "{name}.{tenant}", **CHAT}, {}),
    ("POST", "/v1/chat/completions", {"model": "{name}", **CHAT}, {"x-model-version": "1"}),
    ("POST", "/v1/chat/completions", {"model": "{name}", **CHAT}, {"prefer": "respond-async"}),
    ("POST", "/v1/chat/completions", {"model": "{name}", **CHAT}, {"x-pilotlight-tenant": "{tenant}"}),
    ("POST", "/v1/chat/completions", {"model": "{name}", **CHAT}, {"host": "{name}.{tenant}.localhost"}),
    ("GET", "/v1/models/{name}", None, {}),
    ("GET", "/v1/models/{tenant}/{name}", None, {}),
    ("GET", "/openai/v1/models/{name}", None, {}),
    ("GET", "/v2/models/{name}", None, {}),
    ("GET", "/v2/models/{name}/ready", None, {}),
    ("GET", "/v2/models/{name}/versions/1", None, {}),
    ("POST", "/v2/models/{name}/infer", V2_BODY, {}),
    ("POST", "/v2/models/{name}/generate", V2_BODY, {}),
    ("POST", "/v2/models/{name}/generate_stream", V2_BODY, {}),
    ("GET", "/v1/endpoints/{name}", None, {}),
    ("PATCH", "/v1/endpoints/{name}", {"max_replicas": 1}, {}),
    ("DELETE", "/v1/endpoints/{name}", None, {}),
    ("GET", "/v1/usage?tenant={tenant}", None, {}),
    ("GET", "/v1/usage?endpoint={name}", None, {}),
    ("GET", "/v1/tenants", None, {}),
    ("DELETE", "/v1/tenants/{tenant}", None, {}),
    ("GET", "/v1/tenants/{tenant}/keys", None, {}),
    ("POST", "/v1/tenants/{tenant}/keys", {}, {}),
    ("POST", "/v1/tenants/{tenant}/settings", {"limits": {}}, {}),
    ("GET", "/v1/jobs?tenant={tenant}", None, {}),
    ("GET", "/v1/routes", None, {}),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TenantsGateway]:
    with tenants_gateway(tmp_path_factory.mktemp("gateway"), TENANTS) as made:
        yield made


@pytest.fixture(scope="module")
def http(world: TenantsGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=world.gateway.base, timeout=30) as client:
        yield client


def ask(http: httpx.Client, key: str, asked: Asked, name: str, of_tenant: str) -> httpx.Response:
    def spelled(text: str) -> str:
        return text.replace("{name}", name).replace("{tenant}", of_tenant)

    method, target, body, headers = asked
    content = None if body is None else spelled(json.dumps(body)).encode()
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    sent |= {header: spelled(value) for header, value in headers.items()}
    return http.request(method, spelled(target), content=content, headers=sent)


def told(answer: httpx.Response, name: str, of_tenant: str) -> tuple[int, str, dict[str, str]]:
    """All that the client sees, but for what is another each time anyhow, with the names it asked by put aside."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z?", "TIME", answer.text).replace(name, "NAME").replace(of_tenant, "TENANT")
    each = {"date", "x-request-id", "server-timing", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"}
    each |= {"x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens", "content-length"}
    each |= {"connection"}  # closed where a refusal came before all of the body
    headers = {header: value for header, value in answer.headers.items() if header not in each}
    return answer.status_code, text, headers


NUMBERS = st.integers(0, TENANTS - 1)


@settings(max_examples=120, deadline=None)
@given(mine=NUMBERS, other=NUMBERS, asked=st.sampled_from(ABOUT_A_NAME), narrow=st.booleans())
def test_what_another_has_is_told_from_nothing_in_nothing(
    world: TenantsGateway, http: httpx.Client, mine: int, other: int, asked: Asked, narrow: bool
) -> None:
    if mine == other:
        other = (other + 1) % TENANTS
    key = (world.narrow_keys if narrow else world.keys)[mine]
    asked_before = len(world.hosts)
    theirs = told(ask(http, key, asked, own_model(other), tenant(other)), own_model(other), tenant(other))
    nobodys = told(ask(http, key, asked, NOBODYS, "tenantXX"), NOBODYS, "tenantXX")
    assert theirs == nobodys
    assert theirs[0] < 500 or theirs[0] in (501, 503)
    names = {host.split(".")[1] for host in world.hosts[asked_before:]}
    assert names <= {tenant(mine)}, "nobody else's endpoint was asked"
    assert not [number for number in range(TENANTS) if number != mine and own_model(number) in theirs[1]]


@settings(max_examples=60, deadline=None)
@given(mine=NUMBERS, stream=st.booleans(), common=st.booleans(), prefix=st.sampled_from(["/v1", "/openai/v1"]))
def test_a_name_that_all_have_is_ones_own(
    world: TenantsGateway, http: httpx.Client, mine: int, stream: bool, common: bool, prefix: str
) -> None:
    name = COMMON if common else own_model(mine)
    asked: Asked = ("POST", f"{prefix}/chat/completions", {"model": "{name}", "stream": stream, **CHAT}, {})
    answer = ask(http, world.keys[mine], asked, name, tenant(mine))
    assert answer.status_code == 200
    assert host_of(name, mine) in answer.text
    listed = http.get(f"{prefix}/models", headers={"authorization": f"Bearer {world.keys[mine]}"}).json()
    assert sorted(card["id"] for card in listed["data"]) == sorted([COMMON, own_model(mine)])


@settings(max_examples=30, deadline=None)
@given(pair=st.lists(NUMBERS, min_size=2, max_size=2, unique=True), stream=st.booleans())
def test_a_request_id_is_its_tenants(world: TenantsGateway, http: httpx.Client, pair: list[int], stream: bool) -> None:
    """The second joins nothing, is given nothing of the first, and conflicts with nothing."""
    headers = {"x-request-id": f"same-{uuid4().hex}"}
    for each, content in zip(pair, ("hello", "something else"), strict=True):
        body = {"model": "{name}", "stream": stream, "messages": [{"role": "user", "content": content}]}
        answer = ask(http, world.keys[each], ("POST", "/v1/chat/completions", body, headers), COMMON, tenant(each))
        assert (answer.status_code, host_of(COMMON, each) in answer.text) == (200, True)
    rest: Asked = ("POST", "/v1/chat/completions", body, {**headers, "last-event-id": "1"})
    again = ask(http, world.keys[pair[0]], rest, COMMON, tenant(pair[0]))
    assert host_of(COMMON, pair[1]) not in again.text


OWNERS = st.integers(0, 3)
"""Of what is kept: each of these tenants has one of every kind."""


@dataclass(frozen=True)
class Kept:
    """The ids of what one tenant has, by kind, and what it is shown of each. `request`: of an answer that is kept."""

    ids: dict[str, str]
    shown: dict[str, Any]

    def spelled(self, text: str) -> str:
        for kind, made in self.ids.items():
            text = text.replace(f"{{{kind}}}", made)
        return text

    @property
    def nobodys(self) -> Kept:
        """Ids that nobody has, like these in all but their last letters."""
        return Kept({kind: f"{made[:-12]}{'0' * 12}" for kind, made in self.ids.items()}, {})


FILES: list[Asked] = [
    (method, f"{prefix}/files/{{{kind}}}{tail}", None, {})
    for prefix in ("/v1", "/openai/v1")
    for kind in ("file", "output")
    for method, tail in (("GET", ""), ("GET", "/content"), ("DELETE", ""), ("HEAD", ""), ("HEAD", "/content"))
]
JOB = {"model": COMMON, **CHAT}


def of_openai(prefix: str) -> list[Asked]:
    batch = {"input_file_id": "{file}", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return [
        ("GET", f"{prefix}/batches/{{batch}}", None, {}),
        ("POST", f"{prefix}/batches/{{batch}}/cancel", None, {}),
        ("GET", f"{prefix}/batches?after={{batch}}", None, {}),
        ("POST", f"{prefix}/batches", batch, {}),
        ("GET", f"{prefix}/responses/{{response}}", None, {}),
        ("DELETE", f"{prefix}/responses/{{response}}", None, {}),
        ("GET", f"{prefix}/responses/{{response}}/input_items", None, {}),
        ("POST", f"{prefix}/responses/{{response}}/cancel", None, {}),
    ]


ABOUT_WHAT_IS_KEPT: list[Asked] = [
    *FILES,
    *(
        (method, f"/v1/jobs/{{{kind}}}{tail}", None, headers)
        for kind in ("job", "streamed_job")
        for method, tail, headers in (
            ("GET", "", {}),
            ("HEAD", "", {}),
            ("DELETE", "", {}),
            ("POST", "/cancel", {}),
            ("GET", "/events", {}),
            ("GET", "/events", {"last-event-id": "1.1"}),
            ("GET", "/events", {"last-event-id": "no"}),
        )
    ),
    ("GET", "/v1/jobs?after={job}", None, {}),
    ("GET", "/v1/files?after={file}", None, {}),
    ("GET", "/v1/files?after={output}&order=asc", None, {}),
    *(asked for prefix in ("/v1", "/openai/v1") for asked in of_openai(prefix)),
    *(
        ("POST", "/v1/chat/completions", {**JOB, "stream": stream, **more}, {"x-request-id": f"{{{kind}}}", **headers})
        for kind, stream in (("request", False), ("streamed_request", True))
        for more in ({}, {"max_tokens": 7})
        for headers in ({}, {"last-event-id": "1"}, {"idempotency-key": f"{{{kind}}}"}, {"prefer": "respond-async"})
    ),
]


def own(http: httpx.Client, world: TenantsGateway, number: int) -> Kept:
    """What a tenant makes for itself, over all that the gateway keeps."""
    headers = {"authorization": f"Bearer {world.keys[number]}"}
    chat, ids = "/v1/chat/completions", {"response": f"resp_{uuid4().hex}"}
    for kind, stream in (("job", False), ("streamed_job", True)):
        answer = http.post(chat, json={**JOB, "stream": stream}, headers={**headers, "prefer": "respond-async"})
        ids[kind] = answer.json()["id"]
    for kind, stream in (("request", False), ("streamed_request", True)):
        ids[kind] = f"req-{uuid4().hex}"
        asked = http.post(chat, json={**JOB, "stream": stream}, headers={**headers, "x-request-id": ids[kind]})
        assert host_of(COMMON, number) in asked.text
    line = json.dumps({"custom_id": "one", "url": chat, "body": JOB}).encode()
    form: Any = {"data": {"purpose": "batch"}, "files": {"file": ("lines.jsonl", line)}}
    ids["file"] = http.post("/v1/files", headers=headers, **form).json()["id"]
    asked_for = {"input_file_id": ids["file"], "endpoint": chat, "completion_window": "24h"}
    ids["batch"] = http.post("/v1/batches", headers=headers, json=asked_for).json()["id"]
    batch = until(
        lambda: http.get(f"/v1/batches/{ids['batch']}", headers=headers).json(),
        holds=lambda seen: seen["status"] == "completed",
    )
    ids["output"] = batch["output_file_id"]
    for kind in ("job", "streamed_job"):
        until(
            lambda kind=kind: http.get(f"/v1/jobs/{ids[kind]}", headers=headers).json(),  # type: ignore[misc]
            holds=lambda seen: seen["status"] == "succeeded",
        )
    return Kept(ids, seen_by_its_owner(http, world, number, ids))


def seen_by_its_owner(http: httpx.Client, world: TenantsGateway, number: int, ids: dict[str, str]) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {world.keys[number]}"}
    paths = [f"/v1/files/{ids['file']}/content", f"/v1/files/{ids['output']}/content", f"/v1/batches/{ids['batch']}"]
    paths += [f"/v1/jobs/{ids['job']}", f"/v1/jobs/{ids['streamed_job']}", f"/v1/jobs/{ids['streamed_job']}/events"]
    paths += [f"/v1/files/{ids['file']}", f"/v1/files/{ids['output']}"]
    return {path: http.get(path, headers=headers).text for path in paths}


@pytest.fixture(scope="module")
def kept(world: TenantsGateway, http: httpx.Client) -> Iterator[list[Kept]]:
    """At the end all of it is as it was: whoever came by has changed nothing."""
    made = [own(http, world, number) for number in range(4)]
    yield made
    for number, each in enumerate(made):
        assert seen_by_its_owner(http, world, number, each.ids) == each.shown


@settings(max_examples=150, deadline=None)
@given(mine=NUMBERS, other=OWNERS, asked=st.sampled_from(ABOUT_WHAT_IS_KEPT))
def test_what_another_keeps_is_told_from_nothing_in_nothing(
    world: TenantsGateway, http: httpx.Client, kept: list[Kept], mine: int, other: int, asked: Asked
) -> None:
    if mine == other:
        mine = (mine + 1) % TENANTS
    asked_before = len(world.hosts)
    seen = []
    for whose in (kept[other], kept[other].nobodys):
        method, target, body, headers = asked
        spelled = {name: whose.spelled(value) for name, value in headers.items()}
        spelled_body = None if body is None else json.loads(whose.spelled(json.dumps(body)))
        answer = ask(
            http, world.keys[mine], (method, whose.spelled(target), spelled_body, spelled), NOBODYS, "tenantXX"
        )
        if answer.status_code == 202:
            end_of_job(http, world.keys[mine], answer.headers["location"])
        seen.append(without_ids(told(answer, NOBODYS, "tenantXX"), whose, of_jobs="prefer" in headers))
    assert seen[0] == seen[1]
    assert seen[0][0] < 500
    assert not [each for each in kept[other].ids.values() if each in str(seen)]
    assert {host.split(".")[1] for host in world.hosts[asked_before:]} <= {tenant(mine)}


def end_of_job(http: httpx.Client, key: str, job: str) -> None:
    """So that nothing of it is seen later, when another one asks."""
    headers = {"authorization": f"Bearer {key}"}
    until(lambda: http.get(job, headers=headers).json()["status"], holds=lambda status: status == "succeeded")
    assert http.delete(job, headers=headers).status_code == 200


def without_ids(seen: tuple[int, str, dict[str, str]], whose: Kept, of_jobs: bool) -> tuple[int, str, dict[str, str]]:
    status, text, headers = seen
    for made in whose.ids.values():
        text = text.replace(made, "ID")
    if of_jobs:
        text = re.sub(r"job_[0-9a-f]{32}|_at\":\d+", "", text)
        headers = {name: value for name, value in headers.items() if name != "location"}
    return status, text, headers


def test_without_a_key_nothing_is_told(world: TenantsGateway, http: httpx.Client) -> None:
    for asked in ABOUT_A_NAME:
        known = told(ask(http, "plk_no", asked, own_model(3), tenant(3)), own_model(3), tenant(3))
        unknown = told(ask(http, "plk_no", asked, NOBODYS, "tenantXX"), NOBODYS, "tenantXX")
        assert known == unknown
        assert known[0] in (401, 404, 405), asked


def test_metrics_and_log_name_nobody(world: TenantsGateway, http: httpx.Client) -> None:
    """Last: all of the above has left its traces."""
    for key, status in (("plk_no", 401), (world.keys[1], 403), (world.narrow_keys[2], 403), (world.metrics_key, 200)):
        answer = http.get("/metrics", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == status
        # Not to who may read them, either: what is asked often enough to be counted is nobody's secret to guess.
        assert not re.findall(r"tenant\d\d|model\d\d", answer.text)
    assert "pilotlight_gateway_requests_total" in answer.text
    assert http.get("/v1/models", headers={"authorization": f"Bearer {world.metrics_key}"}).status_code == 403
    log = world.gateway.log.read_text(errors="replace")
    assert not [key for key in (*world.keys, *world.narrow_keys) if key in log]
    assert "Traceback" not in log
