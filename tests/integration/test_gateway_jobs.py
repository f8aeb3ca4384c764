"""Jobs at a real gateway: answered later, read again, cancelled, and run again after the gateway was killed."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gated_backend import GatedBackend, gated_backend
from gateway_process import GatewayProcess
from tenant_world import made_key
from waiting import until

from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.sqlite_store import FILE_NAME, SqliteTenants
from pilotlight_gateway.tenants.tenant_records import TenantSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def started() -> Iterator[GatedBackend]:
    with gated_backend() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(started: GatedBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    made = GatewayProcess(folder, started.port, {name: TenantSettings() for name in ("team", "other", "gone")})
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def backend(started: GatedBackend) -> Iterator[GatedBackend]:
    started.asked.clear()
    started.headers.clear()
    started.gone = 0
    yield started
    started.let_go()


@pytest.fixture
def team(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with gateway.client("team") as client:
        yield client


def body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "shared/demo", "messages": [{"role": "user", "content": text}], **fields}


def begun(client: httpx.Client, text: str = "hello", prefer: str = "respond-async", **fields: Any) -> str:
    answer = client.post(CHAT, json=body(text, **fields), headers={"prefer": prefer})
    assert answer.status_code == 202, answer.text
    assert answer.headers["preference-applied"].startswith("respond-async")
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return str(answer.headers["location"])


def ended(client: httpx.Client, job: str) -> dict[str, Any]:
    return until(lambda: client.get(job).json(), holds=lambda seen: seen["status"] not in ("queued", "running"))


def test_a_request_is_answered_later(team: httpx.Client, backend: GatedBackend) -> None:
    job = ended(team, begun(team))
    assert (job["status"], job["attempts"], job["model"]) == ("succeeded", 1, "shared/demo")
    assert job["response"]["status_code"] == 200
    assert job["response"]["body"]["choices"][0]["message"]["content"] == "re: hello"
    assert len(backend.asked) == 1
    assert b"x-pilotlight-tenant: team" in backend.headers[0]
    assert b"prefer" not in backend.headers[0].lower()


def test_who_waits_a_little_is_answered_as_always(team: httpx.Client, backend: GatedBackend) -> None:
    answer = team.post(CHAT, json=body(), headers={"prefer": "respond-async, wait=20"})
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "re: hello")
    backend.shut()
    begun(team, prefer="respond-async, wait=1")
    backend.let_go()


def test_nothing_secret_is_kept_and_nobody_else_reads_it(gateway: GatewayProcess, backend: GatedBackend) -> None:
    backend.shut()
    with gateway.client("team") as team, gateway.client("other") as other:
        job = begun(team, "my words")
        for method, path in (("GET", job), ("DELETE", job), ("POST", f"{job}/cancel"), ("GET", f"{job}/events")):
            foreign, none = other.request(method, path), other.request(method, path.replace(job[-8:], "00000000"))
            assert (foreign.status_code, foreign.json()) == (none.status_code, none.json())
            assert foreign.status_code == 404
        assert other.get("/v1/jobs").json()["data"] == []
        files = list(gateway.folder.glob("jobs.sqlite3*"))
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        kept = b"".join(file.read_bytes() for file in files)
        assert b"my words" in kept
        assert gateway.keys["team"].encode() not in kept
        backend.let_go()
        assert ended(team, job)["status"] == "succeeded"
        assert team.delete(job).status_code == 200
        assert team.get(job).status_code == 404


def test_a_job_that_ran_when_the_gateway_was_killed_runs_again(
    gateway: GatewayProcess, team: httpx.Client, backend: GatedBackend
) -> None:
    done = begun(team, "done")
    ended(team, done)
    backend.shut()
    running = begun(team, "running")
    until(lambda: "running" in backend.said)
    waiting = [begun(team, f"waits {number}") for number in range(20)]
    gateway.kill()
    backend.let_go()
    gateway.start()
    assert ended(team, running)["attempts"] == 2
    assert all(ended(team, job)["status"] == "succeeded" for job in waiting)
    assert team.get(done).json()["response"]["body"]["choices"][0]["message"]["content"] == "re: done"
    assert backend.said.count("done") == 1
    assert backend.said.count("running") == 2


def test_a_job_is_cancelled_while_it_runs(team: httpx.Client, backend: GatedBackend) -> None:
    backend.shut()
    job = begun(team)
    until(lambda: backend.asked)
    assert team.post(f"{job}/cancel").json()["status"] == "cancelled"
    until(lambda: backend.gone == 1)
    assert ended(team, job)["status"] == "cancelled"
    assert team.get(f"{job}/events").text.count("event: error") == 1


def test_events_are_followed_and_read_again(team: httpx.Client, backend: GatedBackend) -> None:
    backend.shut()
    job = begun(team, stream=True)
    with team.stream("GET", f"{job}/events") as live:
        lines = live.iter_lines()
        until(lambda: next(lines).startswith("id: 1.2"))
        backend.let_go()
        rest = list(lines)
    assert rest[-3:] == ["id: 1.5", "data: [DONE]", ""]
    ended(team, job)
    again = team.get(f"{job}/events", headers={"last-event-id": "1.3"}).text
    assert [line for line in again.splitlines() if line.startswith("id")] == ["id: 1.4", "id: 1.5"]
    assert team.get(f"{job}/events", headers={"last-event-id": "2.3"}).status_code == 409
    assert team.get(f"{job}/events", headers={"last-event-id": "x"}).status_code == 400
    whole = begun(team, "once")
    ended(team, whole)
    assert "re: once" in team.get(f"{whole}/events").text


def test_what_finds_no_room_comes_again_and_what_is_wrong_fails(team: httpx.Client, backend: GatedBackend) -> None:
    backend.refuses = 1
    job = ended(team, begun(team))
    assert (job["status"], job["attempts"]) == ("succeeded", 1)
    failed = ended(team, begun(team, "bad"))
    assert (failed["status"], failed["response"]["status_code"]) == ("failed", 400)
    assert failed["response"]["body"]["error"]["message"] == "so bad"


def test_a_revoked_keys_job_is_refused(gateway: GatewayProcess, backend: GatedBackend) -> None:
    backend.refuses = 1
    with gateway.client("gone") as gone:
        job = begun(gone)
    until(lambda: not backend.refuses)
    # It waits three seconds, as it was told to.
    store, fresh = SqliteTenants(gateway.folder / FILE_NAME), made_key()
    (key,) = store.keys("gone")
    store.change("gone", tenant_orders.create_key("gone", fresh, 1.0))
    store.change("gone", tenant_orders.revoke_key("gone", key.id, 2.0))
    store.close()
    with httpx.Client(base_url=gateway.url, headers={"x-api-key": fresh.shown}, timeout=30) as client:
        until(lambda: client.get(job).status_code == 200)
        seen = ended(client, job)
    assert (seen["status"], seen["error"]["status"]) == ("failed", 401)
    assert not backend.asked


def test_jobs_are_listed_page_by_page(team: httpx.Client, backend: GatedBackend) -> None:
    for job in team.get("/v1/jobs", params={"limit": 100}).json()["data"]:
        team.delete(f"/v1/jobs/{job['id']}")
    jobs = [begun(team, f"{number}") for number in range(5)]
    seen: list[str] = []
    after: dict[str, str] = {}
    more = True
    while more:
        page = team.get("/v1/jobs", params={"limit": 2, **after}).json()
        seen += [f"/v1/jobs/{job['id']}" for job in page["data"]]
        more, after = page["has_more"], {"after": page["data"][-1]["id"]}
    assert seen == jobs[::-1]
    assert team.get("/v1/jobs", params={"limit": "0"}).status_code == 400
