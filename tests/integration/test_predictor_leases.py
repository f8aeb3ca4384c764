"""The predictor on a warm pool over fake engines: real processes, real lease API, real frames, no vLLM."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from component_process import RunningComponent, running
from process_table import children
from server_ports import free_port
from waiting import until

from pilotlight_engine.leasing.lease_errors import PoolUnreachable
from pilotlight_engine.leasing.pool_http import Answer, PoolHttp
from pilotlight_wire.hop_headers import ELSEWHERE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

FAKE_POOL = Path(__file__).parents[1] / "fakes" / "fake_pool.py"
DEADLINE_S = 30.0
# One token in 5 ms: long enough to be interrupted, short enough to wait for.
LONG = {"max_tokens": 400, "temperature": 0}


class FakePool:
    """A warm pool of fake engines on a Unix socket; `kill` and `start` make it restart. `key`: tenant acme's."""

    def __init__(self, folder: Path, slots: int = 1, key: str = "") -> None:
        self.folder = folder
        self.socket = folder / "pool.sock"
        self.log = folder / "pool.log"
        self.argv = [sys.executable, str(FAKE_POOL), f"--listen=unix://{self.socket}", f"--run_dir={folder / 'run'}"]
        self.argv += [f"--slot=cpu:{number}=4GiB" for number in range(slots)]
        self.key = key
        if key:
            sha256 = hashlib.sha256(key.encode()).hexdigest()
            entry = {"sha256": sha256, "tenant": "acme", "sources": ["file:///"]}
            (folder / "keys.json").write_text(json.dumps({"keys": [entry]}))
            self.argv += [f"--lease_keys={folder / 'keys.json'}", "--model_root=/"]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log, start_new_session=True)
        until(lambda: self.answers("/readyz"), DEADLINE_S, "the pool")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def answers(self, path: str) -> bool:
        with contextlib.suppress(PoolUnreachable):
            return self.get(path).status == 200
        return False

    def get(self, path: str) -> Answer:
        return PoolHttp(self.url, self.key).exchange("GET", path, None, 10)

    def leases(self) -> list[dict[str, Any]]:
        """Those that hold a slot or wait for one."""
        living = ("active", "idle", "queued", "placing")
        return [line for line in json.loads(self.get("/v1/leases").body)["leases"] if line["state"] in living]

    def engine_pids(self) -> list[int]:
        """Engine hosts: grandchildren of the pool, children of its zygote."""
        assert self.process is not None
        return [host for zygote in children(self.process.pid) for host in children(zygote)]


@pytest.fixture
def pool(request: pytest.FixtureRequest) -> Iterator[FakePool]:
    """Indirectly parametrized: with so many slots."""
    # Not pytest's folder: its path is too long for a socket.
    with tempfile.TemporaryDirectory(prefix="pl-") as folder:
        pool = FakePool(Path(folder), getattr(request, "param", 1))
        try:
            pool.start()
            yield pool
        finally:
            pool.kill()


def model(folder: Path, name: str, counting: int, boot_s: float = 0.02) -> Path:
    """A checkpoint of which only the architecture is real; its engines count up by `counting`."""
    place = folder / name
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"architectures": ["Fake"], "hidden_size": 8}))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (place / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + counting.to_bytes(4, "little")
    )
    (place / "fake.json").write_text(json.dumps({"counting": counting, "step_s": 0.005, "boot_s": boot_s}))
    return place


@contextlib.contextmanager
def predictor(pool: FakePool, folder: Path, name: str, counting: int, *flags: str) -> Iterator[RunningComponent]:
    place = folder / name
    if not place.exists():
        model(folder, name, counting)
    port = free_port()
    argv = ["-m", "pilotlight_predictor", f"--model_name={name}", f"--model_dir={place}", f"--http_port={port}", *flags]
    environment = {"PILOTLIGHT_POOL_URL": pool.url, "PILOTLIGHT_POOL_KEY": pool.key}
    with running(
        argv, port, folder / f"{name}.log", deadline_s=DEADLINE_S, model_name=name, environment=environment
    ) as it:
        yield it


def url(component: RunningComponent, verb: str = "generate") -> str:
    return f"{component.base}/v2/models/{component.model_name}/{verb}"


def generate(component: RunningComponent, prompt: int = 1, **parameters: Any) -> httpx.Response:
    body = {"input_ids": [prompt], "parameters": {"max_tokens": 3, "temperature": 0, **parameters}}
    return httpx.post(url(component), json=body, timeout=60)


@contextlib.contextmanager
def streaming(component: RunningComponent) -> Iterator[list[int]]:
    """A long stream read in a thread; yields the list its tokens go to once the first is there."""
    tokens: list[int] = []
    started = threading.Event()

    def read() -> None:
        body = {"input_ids": [1], "parameters": LONG}
        with httpx.stream("POST", url(component, "generate_stream"), json=body, timeout=60) as response:
            for line in filter(None, response.iter_lines()):
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                tokens.extend(event["output_ids"])
                started.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(DEADLINE_S)
    yield tokens
    thread.join(60)


def counted(start: int, by: int, many: int) -> list[int]:
    return [(start + by * step) % 32000 for step in range(1, many + 1)]


def test_three_fine_tunes_share_one_slot_and_nobody_gets_anothers_tokens(pool: FakePool, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        tunes = {
            by: stack.enter_context(predictor(pool, tmp_path, f"tune-{by}", by, "--lease_idle_s=0.05"))
            for by in (10, 20, 30)
        }
        for _ in range(3):
            for by, component in tunes.items():
                answer = generate(component)
                assert answer.json()["output_ids"] == counted(1, by, 3), answer.text
        until(lambda: not pool.leases(), DEADLINE_S, "every lease given back")
        answer = generate(tunes[10])
        assert "path=swap" in answer.headers["x-pilotlight-lease"]
        assert {"lease", "swap", "prefill"} <= {
            part.split(";")[0] for part in answer.headers["server-timing"].split(", ")
        }
        until(lambda: not pool.leases(), DEADLINE_S, "the lease given back")
        assert "path=loaded" in generate(tunes[10]).headers["x-pilotlight-lease"]
        assert len(pool.engine_pids()) == 1


def test_a_long_prompt_goes_through_a_lease(pool: FakePool, tmp_path: Path) -> None:
    with predictor(pool, tmp_path, "tune", 10) as component:
        body = {"input_ids": list(range(9000, 11030)), "parameters": {"max_tokens": 3, "temperature": 0}}
        answer = httpx.post(url(component), json=body, timeout=60)
        assert answer.json()["output_ids"] == counted(11029, 10, 3), answer.text
        assert generate(component).json()["output_ids"] == counted(1, 10, 3)


def test_ready_does_not_flap_when_the_lease_is_given_back(pool: FakePool, tmp_path: Path) -> None:
    with predictor(pool, tmp_path, "tune", 10, "--lease_idle_s=0.05", "--tenant=acme") as component:
        assert component.get("/v2/health/ready")[0] == 200
        with streaming(component):
            assert [(line["tenant"], line["model_name"]) for line in pool.leases()] == [("acme", "tune")]
        until(lambda: not pool.leases(), DEADLINE_S, "the lease given back")
        assert component.get("/v2/health/ready")[0] == 200
        assert component.get("/metrics")[0] == 200


def test_a_stream_outlives_its_engine(pool: FakePool, tmp_path: Path) -> None:
    with predictor(pool, tmp_path, "tune", 10) as component:
        with streaming(component) as tokens:
            killed: set[int] = set()
            for _ in range(2):
                (engine,) = until(lambda: set(pool.engine_pids()) - killed, DEADLINE_S, "an engine")
                until(partial(lambda before: len(tokens) > before, len(tokens)), DEADLINE_S, "tokens")
                os.kill(engine, signal.SIGKILL)
                killed.add(engine)
        assert tokens == counted(1, 10, 400)


@pytest.mark.parametrize("pool", [2], indirect=True)
def test_a_pod_whose_engine_boots_takes_no_requests_while_another_has_one(pool: FakePool, tmp_path: Path) -> None:
    place = model(tmp_path, "model", 10, boot_s=1.5)
    with contextlib.ExitStack() as stack:
        one, other = (
            stack.enter_context(
                predictor(pool, tmp_path / name, "m", 10, f"--model_dir={place}", "--lease_idle_s=0.05")
            )
            for name in ("one", "other")
        )
        until(lambda: not pool.leases(), DEADLINE_S, "both leases given back")
        for engine in pool.engine_pids():
            os.kill(engine, signal.SIGKILL)
        until(lambda: not pool.engine_pids(), DEADLINE_S, "both slots without an engine")
        assert generate(one).status_code == 200
        with streaming(one) as tokens:
            body = {"input_ids": [1], "parameters": {"max_tokens": 3, "temperature": 0}}
            sent_on = httpx.post(url(other), json=body, headers={ELSEWHERE: "1"}, timeout=60)
            assert (sent_on.status_code, ELSEWHERE in sent_on.headers) == (503, True)
            status, why = other.get("/v2/health/ready")
            assert status == 503
            assert b"another pod of the endpoint has an engine" in why
            assert generate(other).json()["output_ids"] == counted(1, 10, 3), "who cannot go elsewhere waits"
        assert tokens == counted(1, 10, 400)
        until(lambda: other.get("/v2/health/ready")[0] == 200, DEADLINE_S, "ready once it has an engine")


def test_a_stream_outlives_the_pool(pool: FakePool, tmp_path: Path) -> None:
    with predictor(pool, tmp_path, "tune", 10) as component:
        with streaming(component) as tokens:
            pool.kill()
            until(lambda: component.get("/v2/health/ready")[0] == 503, DEADLINE_S, "not ready without a pool")
            pool.start()
        assert tokens == counted(1, 10, 400)
        assert component.get("/v2/health/ready")[0] == 200


def test_a_request_without_a_pool_is_told_so_in_time(pool: FakePool, tmp_path: Path) -> None:
    with predictor(pool, tmp_path, "tune", 10, "--lease_idle_s=0.05", "--lease_deadline_s=0.5") as component:
        until(lambda: not pool.leases(), DEADLINE_S, "the lease given back")
        pool.kill()
        answer = generate(component)
        assert answer.status_code == 503
        assert "the warm pool at" in answer.json()["error"]
        assert int(answer.headers["retry-after"]) >= 1


def test_a_model_that_is_not_there_ends_the_predictor_with_the_reason(pool: FakePool, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "pilotlight_predictor", f"--http_port={free_port()}", "--model_dir=/nowhere"]
    done = subprocess.run([*argv, f"--pool_url={pool.url}"], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert "the warm pool refuses" in done.stderr
    assert "/nowhere" in done.stderr


def test_the_lease_is_asked_for_before_the_web_stack_is_imported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        argv = [sys.executable, "-m", "pilotlight_predictor", "--model_dir=/m", f"--http_port={free_port()}"]
        argv.append(f"--pool_url=http://127.0.0.1:{listener.getsockname()[1]}")
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            asking, _ = listener.accept()
            with asking:
                assert asking.recv(20).startswith(b"POST /v1/leases")
                assert "cygrpc" not in Path(f"/proc/{process.pid}/maps").read_text()
        finally:
            process.terminate()
            assert process.wait(30) in (0, 128 + signal.SIGTERM, -signal.SIGTERM)


def test_a_predictor_shows_its_key_and_gives_the_lease_back_with_it(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pl-") as folder:
        pool = FakePool(Path(folder), key="a long secret")
        pool.start()
        try:
            with predictor(pool, tmp_path, "keyed", 3, "--lease_idle_s=0.1") as component:
                assert generate(component).json()["output_ids"] == [4, 7, 10]
                with streaming(component):
                    assert [line["tenant"] for line in pool.leases()] == ["acme"], "the key's, though nobody said it"
                until(lambda: not pool.leases(), DEADLINE_S, "the lease to be given back")
                assert "a long secret" not in component.log.read_text() + pool.log.read_text()
        finally:
            pool.kill()
