"""OpenAI's files and batches at a real gateway, by OpenAI's own client: from upload to output, over a restart too."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from gated_backend import GatedBackend, gated_backend
from gateway_process import GatewayProcess
from waiting import until

from pilotlight_gateway.limits.limit_terms import LimitTerms
from pilotlight_gateway.tenants.tenant_records import TenantSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
Client = openai.OpenAI


@pytest.fixture(scope="module")
def started() -> Iterator[GatedBackend]:
    with gated_backend() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(started: GatedBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    few = TenantSettings(limits=LimitTerms(tokens_per_minute=1000))
    tenants = {"team": TenantSettings(), "other": TenantSettings(), "stranger": TenantSettings(), "few": few}
    made = GatewayProcess(tmp_path_factory.mktemp("gateway"), started.port, tenants)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def backend(started: GatedBackend) -> Iterator[GatedBackend]:
    started.asked.clear()
    started.headers.clear()
    yield started
    started.let_go()


@pytest.fixture
def team(gateway: GatewayProcess) -> Iterator[Client]:
    with client_of(gateway, "team") as made:
        yield made


def client_of(gateway: GatewayProcess, tenant: str) -> Client:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.keys[tenant], max_retries=0)


def line(custom_id: str, text: str | None = None, **fields: Any) -> bytes:
    message = {"role": "user", "content": custom_id if text is None else text}
    body = {"model": "shared/demo", "messages": [message], **fields}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}).encode()


def uploaded(client: Client, *lines: bytes) -> str:
    return client.files.create(file=("requests.jsonl", b"\n".join(lines)), purpose="batch").id


def created(client: Client, *lines: bytes, **fields: Any) -> str:
    file_id = uploaded(client, *lines)
    return client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h", **fields).id


def completed(client: Client, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    assert counts is not None
    return counts.completed


def ended(client: Client, batch_id: str) -> Any:
    return until(
        lambda: client.batches.retrieve(batch_id),
        60,
        holds=lambda batch: batch.status in ("completed", "failed", "cancelled", "expired"),
    )


def lines_of(client: Client, file_id: str | None) -> dict[str, Any]:
    """By their custom ids."""
    if file_id is None:
        return {}
    found = [json.loads(each) for each in client.files.content(file_id).text.splitlines()]
    assert len({each["id"] for each in found}) == len(found)
    return {each["custom_id"]: each for each in found}


def test_a_batch_from_upload_to_output(team: Client, backend: GatedBackend) -> None:
    batch = ended(team, created(team, *(line(f"q{number}") for number in range(30)), metadata={"of": "me"}))
    assert (batch.status, batch.request_counts.total, batch.request_counts.completed) == ("completed", 30, 30)
    assert batch.metadata == {"of": "me"}
    assert batch.error_file_id is None
    output = lines_of(team, batch.output_file_id)
    assert len(output) == 30
    for custom_id, written in output.items():
        assert written["error"] is None
        assert written["response"]["status_code"] == 200
        assert written["response"]["body"]["choices"][0]["message"]["content"] == f"re: {custom_id}"
    assert all(b"x-pilotlight-priority: idle" in head for head in backend.headers)
    kept = team.files.retrieve(str(batch.output_file_id))
    assert (kept.purpose, kept.bytes) == ("batch_output", len(team.files.content(kept.id).content))


def test_what_is_wrong_with_a_line_is_in_the_error_file(team: Client, backend: GatedBackend) -> None:
    bad = [b"no json", b'{"custom_id": "x"}', line("q1"), line("q1"), line("streams", stream=True), b"", line("bad")]
    bad += [line("elsewhere").replace(CHAT.encode(), b"/v1/completions"), b"\xff\xfe", line("long", "x" * (5 << 20))]
    bad.append(line("none").replace(b"shared/demo", b"no-such-model"))
    batch = ended(team, created(team, *bad))
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 1, 9)
    assert list(lines_of(team, batch.output_file_id)) == ["q1"]
    content = team.files.content(str(batch.error_file_id)).text
    errors = [json.loads(each) for each in content.splitlines()]
    assert {each["error"]["code"] for each in errors if each["error"]} == {
        "invalid_json_line",
        "duplicate_custom_id",
        "stream_not_supported",
        "invalid_url",
        "line_too_long",
    }
    statuses = {each["custom_id"]: each["response"]["status_code"] for each in errors if each["response"]}
    assert statuses == {"bad": 400, "none": 404}


def test_lines_that_were_done_when_the_gateway_was_killed_are_not_run_again(
    gateway: GatewayProcess, team: Client, backend: GatedBackend
) -> None:
    lines = [line(f"q{number}") for number in range(200)]
    batch_id = created(team, *lines)
    until(lambda: len(backend.asked) > 40)
    backend.shut()
    # What was answered is written before the next one is asked for; those that are asked now have no answer.
    until(lambda: completed(team, batch_id) > 20)
    gateway.kill()
    done = gateway.folder / "files" / f"{batch_id}.output"
    written = [json.loads(each)["custom_id"] for each in done.read_bytes().split(b"\n")[:-1]]
    with done.open("ab") as file:
        file.write(b'{"id": "half a li')
    backend.let_go()
    gateway.start()
    batch = ended(team, batch_id)
    assert (batch.status, batch.request_counts.completed) == ("completed", 200)
    output = lines_of(team, batch.output_file_id)
    assert output.keys() == {f"q{number}" for number in range(200)}
    assert all(backend.said.count(custom_id) == 1 for custom_id in written)
    assert len(backend.asked) <= 200 + 16


def test_a_batch_is_cancelled_with_what_it_has(team: Client, backend: GatedBackend) -> None:
    batch_id = created(team, *(line(f"q{number}") for number in range(50)))
    until(lambda: len(backend.asked) > 5)
    backend.shut()
    assert team.batches.cancel(batch_id).status == "cancelling"
    batch = ended(team, batch_id)
    assert batch.status == "cancelled"
    assert 0 < len(lines_of(team, batch.output_file_id)) < 50
    assert batch.request_counts.completed == len(lines_of(team, batch.output_file_id))


def test_a_file_that_is_no_batch(team: Client, backend: GatedBackend) -> None:
    batch = ended(team, created(team, b"\n", b" "))
    assert batch.status == "failed"
    assert batch.errors.data[0].code == "empty_file"
    with pytest.raises(openai.BadRequestError, match="empty"):
        uploaded(team, b"")


def test_limits_hold_for_each_line(gateway: GatewayProcess, backend: GatedBackend) -> None:
    with client_of(gateway, "few") as few:
        batch_id = created(few, *(line(f"q{number}", max_tokens=999) for number in range(5)))
        until(lambda: completed(few, batch_id) == 1)
        assert len(backend.asked) == 1
        assert few.batches.cancel(batch_id).status == "cancelling"
        assert ended(few, batch_id).request_counts.completed == 1


def test_what_waits_is_everybody_elses_turn_first(gateway: GatewayProcess, team: Client, backend: GatedBackend) -> None:
    """A batch of another tenant's fills the idle room; a request goes beside it at once."""
    with client_of(gateway, "other") as other:
        backend.shut()
        batch_id = created(other, *(line(f"q{number}") for number in range(200)))
        until(lambda: len(backend.asked) >= 1)
        backend.let_go()
        message: Any = [{"role": "user", "content": "me"}]
        assert (
            team.chat.completions.create(model="shared/demo", messages=message).choices[0].message.content == "re: me"
        )
        assert ended(other, batch_id).request_counts.completed == 200


def test_files_are_their_tenants_alone(gateway: GatewayProcess, team: Client, backend: GatedBackend) -> None:
    file_id = uploaded(team, line("secret words"))
    batch_id = created(team, line("secret words"))
    ended(team, batch_id)
    with gateway.client("stranger") as other:
        for method, path in (
            ("GET", f"/v1/files/{file_id}"),
            ("GET", f"/v1/files/{file_id}/content"),
            ("DELETE", f"/v1/files/{file_id}"),
            ("GET", f"/v1/batches/{batch_id}"),
            ("POST", f"/v1/batches/{batch_id}/cancel"),
            ("GET", "/v1/files/..%2F..%2Ftenants.sqlite3/content"),
        ):
            foreign, none = other.request(method, path), other.request(method, path[:15] + "0" * 32)
            assert foreign.status_code == 404, (method, path, foreign.text)
            assert none.status_code in (404, 405)
        assert other.get("/v1/files").json()["data"] == other.get("/v1/batches").json()["data"] == []
        asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
        assert other.post("/v1/batches", json=asked).status_code == 404
    folder = gateway.folder / "files"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_files_are_listed_and_deleted(team: Client, backend: GatedBackend) -> None:
    for file in team.files.list():
        team.files.delete(file.id)
    made = [uploaded(team, line(f"q{number}")) for number in range(5)]
    assert [file.id for file in team.files.list(limit=2)] == made[::-1]
    assert [file.id for file in team.files.list(order="asc", purpose="batch")] == made
    assert list(team.files.list(purpose="batch_output")) == []
    backend.shut()
    batch_id = team.batches.create(input_file_id=made[0], endpoint=CHAT, completion_window="24h").id
    with pytest.raises(openai.ConflictError):
        team.files.delete(made[0])
    backend.let_go()
    ended(team, batch_id)
    assert team.files.delete(made[0]).deleted
    with pytest.raises(openai.NotFoundError):
        team.files.content(made[0])


@pytest.mark.parametrize(
    ("fields", "files", "status"),
    [
        ({"purpose": "batch"}, {}, 415),
        ({}, {"file": ("a", b"x")}, 400),
        ({"purpose": "fine-tune"}, {"file": ("a", b"x")}, 400),
        ({"purpose": "batch", "more": "x"}, {"file": ("a", b"x")}, 400),
        ({"purpose": "batch", "x": "y" * 2000}, {"file": ("a", b"x")}, 413),
        ({"purpose": "batch"}, {"other": ("a", b"x")}, 400),
        ({f"f{number}": "x" for number in range(20)}, {"file": ("a", b"x")}, 413),
        ({"purpose": "batch", "expires_after[anchor]": "created_at"}, {"file": ("a", b"x")}, 400),
    ],
)
def test_forms_that_are_refused(
    gateway: GatewayProcess, fields: dict[str, str], files: dict[str, Any], status: int
) -> None:
    with gateway.client("team") as client:
        answer = client.post("/v1/files", data=fields, files=files)
        assert answer.status_code == status, answer.text
        assert not list((gateway.folder / "files").glob("*.upload"))


def test_an_upload_that_ends_in_the_middle_leaves_nothing(gateway: GatewayProcess) -> None:
    head = {"content-type": "multipart/form-data; boundary=b", "content-length": "100000"}

    def pieces() -> Iterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 50_000
        raise ConnectionError

    with gateway.client("team") as client, pytest.raises((httpx.TransportError, ConnectionError)):
        client.post("/v1/files", content=pieces(), headers=head)
    until(lambda: not list((gateway.folder / "files").glob("*.upload")))


def test_a_file_of_many_megabytes_arrives_whole(team: Client, gateway: GatewayProcess) -> None:
    text = b"".join(b"%d,%b\n" % (number, b"x" * 1000) for number in range(40_000))
    file_id = team.files.create(file=("../../big.jsonl", text), purpose="batch").id
    assert team.files.retrieve(file_id).filename == "big.jsonl"
    assert team.files.content(file_id).content == text
    team.files.delete(file_id)
    assert not (gateway.folder / "files" / file_id).exists()
