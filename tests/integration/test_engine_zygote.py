"""The zygote and the door of its hosts: forks, ends, secrets. Real processes, real vLLM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pool_agent import Host, ZygoteProcess, exec_host, private_dir
from process_table import is_alive
from waiting import until

from pilotlight_engine.client import pool_client
from pilotlight_models import bundled_model_path
from pilotlight_protocol.engine_frames import (
    Busy,
    Check,
    Checked,
    Failed,
    GenerateRequest,
    Hello,
    HostConfig,
    HostExited,
    Idle,
    Revoke,
    Revoked,
    Shutdown,
)
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.frame_codec import encode
from pilotlight_protocol.generation import GenerationParameters

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SECRET = "s" * 64


@pytest.fixture(scope="module")
def host(zygote: ZygoteProcess, tmp_path_factory: pytest.TempPathFactory) -> Host:
    host = zygote.fork(config(tmp_path_factory.mktemp("run"), "slot"))
    host.wait_booted()
    return host


def config(run_dir: Path, slot: str, **values: Any) -> HostConfig:
    settings: dict[str, Any] = {
        "model_dir": str(bundled_model_path("demo-awq")), "model_name": "demo", "cpus": 1,
        "listen": f"unix://{private_dir(run_dir)}/{slot}.sock",
        "engine_args": {"enforce_eager": "true", "max_num_seqs": "8"},
    } | values  # fmt: skip
    return HostConfig(slot=slot, **settings)


def request(max_tokens: int) -> GenerateRequest:
    return GenerateRequest("r", [5, 6, 7], GenerationParameters(max_tokens=max_tokens, ignore_eos=True))


def test_a_fork_leads_its_own_session_and_has_its_threads(host: Host, zygote: ZygoteProcess) -> None:
    assert os.getsid(host.pid) == os.getpgid(host.pid) == host.pid
    assert host.booted is not None
    assert next(iter(host.booted.info.boot_phases_s)) == "import"
    assert host.booted.info.boot_phases_s["import"] < 2.0
    links = [os.readlink(f"/proc/{host.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{host.pid}/fd")]  # noqa: PTH115, PTH208
    zygotes = os.readlink(f"/proc/{zygote.process.pid}/fd/{_socket_fd(zygote.process.pid)}")  # noqa: PTH115
    assert zygotes not in links


def test_a_boot_leaves_no_file_behind(host: Host, zygote: ZygoteProcess) -> None:
    assert host.booted is not None
    assert not list((zygote.work_dir / "tmp").glob("vllm_dist_*"))


def _socket_fd(pid: int) -> str:
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return argv[argv.index(b"pilotlight_engine.host.zygote") + 1].decode()


async def test_a_lease_generates_and_its_edges_are_told(host: Host) -> None:
    assert host.booted is not None
    host.grant("L1", SECRET, "a")
    engine = await pool_client.connect(host.booted.endpoint, "L1", SECRET)
    assert engine.model_name == "demo"
    assert engine.info.max_model_len == 2048
    tokens = [token async for some in engine.generate(request(8)) for delta in some for token in delta.token_ids]
    assert len(tokens) == 8
    assert b"vllm:generation_tokens_total" in await engine.metrics()
    await engine.check()
    await engine.close()
    host.until(Busy)
    host.until(Idle)


async def test_a_long_prompt_is_served(host: Host) -> None:
    assert host.booted is not None
    host.grant("L1", SECRET, "a")
    engine = await pool_client.connect(host.booted.endpoint, "L1", SECRET)
    # Its frame is larger than what a stranger may send before the lease is shown.
    asked = GenerateRequest("r", [500 + number for number in range(1500)], request(2).parameters)
    deltas = [delta async for some in engine.generate(asked) for delta in some]
    assert deltas[0].prompt_tokens == 1500
    assert sum(len(delta.token_ids) for delta in deltas) == 2
    await engine.close()
    host.until(Busy)
    host.until(Idle)


async def _to_its_end(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


async def test_a_revoked_lease_ends_at_once_and_says_why(host: Host) -> None:
    assert host.booted is not None
    host.grant("L2", SECRET, "a")
    engine = await pool_client.connect(host.booted.endpoint, "L2", SECRET)
    stream = engine.generate(request(2000))
    await anext(stream)
    host.send(Revoke("L2", "preempted by interactive work"))
    await asyncio.to_thread(host.until, Revoked)
    with pytest.raises(Unavailable, match="preempted"):
        await _to_its_end(stream)
    with pytest.raises(Unavailable, match="does not know lease"):
        await pool_client.connect(host.booted.endpoint, "L2", SECRET)


async def test_a_wrong_secret_gets_silence_then_the_door(host: Host) -> None:
    assert host.booted is not None
    host.grant("L3", SECRET, "a")
    for lease, secret in (("L3", "x" * 64), ("L2", SECRET), ("L3", "")):
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match="does not know lease"):
            await pool_client.connect(host.booted.endpoint, lease, secret)
        assert time.monotonic() - began_s > 0.4
    engine = await pool_client.connect(host.booted.endpoint, "L3", SECRET)
    await engine.close()


@pytest.mark.parametrize(
    "opening", [b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", bytes(encode(Hello("x" * 9000, "")))]
)
def test_what_is_no_hello_is_shown_out(host: Host, opening: bytes) -> None:
    assert host.booted is not None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10.0)
        sock.connect(host.booted.endpoint.removeprefix("unix://"))
        sock.sendall(opening)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    host.send(Check(1))
    host.until(Checked)


async def test_a_client_that_vanishes_frees_the_engine(host: Host) -> None:
    assert host.booted is not None
    host.grant("L4", SECRET, "a")
    engine = await pool_client.connect(host.booted.endpoint, "L4", SECRET)
    stream = engine.generate(request(2000))
    await anext(stream)
    await engine.close()
    await asyncio.to_thread(host.until, Idle)
    again = await pool_client.connect(host.booted.endpoint, "L4", SECRET)
    assert again.stats.running == 0
    await again.close()


def test_exits_are_reported_and_tcp_works(zygote: ZygoteProcess, tmp_path: Path) -> None:
    host = zygote.fork(config(tmp_path / "run", "tcp", listen="tcp://127.0.0.1:0"))
    booted = host.wait_booted()
    assert not booted.endpoint.endswith(":0")
    host.grant("L", SECRET, "a")

    async def one_token() -> int:
        engine = await pool_client.connect(booted.endpoint, "L", SECRET)
        tokens = [token async for some in engine.generate(request(1)) for delta in some for token in delta.token_ids]
        await engine.close()
        return len(tokens)

    assert asyncio.run(one_token()) == 1
    os.killpg(host.pid, signal.SIGKILL)
    assert zygote.frames.until(HostExited) == HostExited("tcp", host.pid, -signal.SIGKILL)


def test_a_model_that_cannot_boot_says_why(zygote: ZygoteProcess, tmp_path: Path) -> None:
    host = zygote.fork(config(tmp_path / "run", "bad", engine_args={"max_model_length": "5"}))
    frame: object = None
    while not isinstance(frame, Failed):
        frame = host.next()
        assert frame is not None
    assert frame.misconfigured
    assert "did you mean max_model_len" in frame.reason
    assert zygote.frames.until(HostExited).code == 1


def test_hosts_end_with_their_agents_socket_and_with_the_zygote(tmp_path: Path) -> None:
    work_dir = private_dir(tmp_path / "w")
    with ZygoteProcess(work_dir, tmp_path / "log") as zygote:
        zygote.wait_ready()
        first = zygote.fork(config(tmp_path / "run", "one"))
        second = zygote.fork(config(tmp_path / "run", "two"))
        first.wait_booted()
        first.sock.close()
        until(lambda: not is_alive(first.pid))
        second.wait_booted()
        zygote.process.kill()
        until(lambda: not is_alive(second.pid))


def test_a_host_without_a_zygote(tmp_path: Path) -> None:
    process, host = exec_host(config(tmp_path / "run", "exec"), private_dir(tmp_path / "w"), tmp_path / "log")
    try:
        host.wait_booted()
        host.send(Shutdown())
        # The agent kills it after two seconds, and whoever needs the slot waits for that.
        assert process.wait(2.0) == 0
    finally:
        process.kill()
        process.wait()
        host.sock.close()
