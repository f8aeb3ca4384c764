"""The agent's end of an engine process, with a real process that does not answer, or is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess

import pytest
from waiting import until

from pilotlight_pool.agent.engine_output import EngineOutput
from pilotlight_pool.agent.engine_process import EngineProcess
from pilotlight_pool.agent.stopped_processes import is_stopped
from pilotlight_pool.agent_port import EngineGone, ExitReport

pytestmark = pytest.mark.integration


async def _watched() -> tuple[EngineProcess, subprocess.Popen[bytes], asyncio.Future[ExitReport]]:
    loop = asyncio.get_running_loop()
    output, output_fd = await EngineOutput.open("cpu:0")
    lost: asyncio.Future[ExitReport] = loop.create_future()
    process = EngineProcess(output, on_lost=lost.set_result, on_work=lambda busy: None)
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen(["sleep", "60"], stdin=theirs.fileno(), stdout=output_fd)  # noqa: ASYNC220
    os.close(output_fd)
    ours.setblocking(False)
    await loop.create_connection(lambda: process, sock=ours)
    process.watch(child.pid)
    return process, child, lost


async def test_a_process_that_stands_still_is_killed_and_told_as_lost() -> None:
    process, child, lost = await _watched()
    os.kill(child.pid, signal.SIGSTOP)
    try:
        with pytest.raises(EngineGone, match=r"no answer to Ping within 0\.2 s"):
            await process.ping(0.2)
        async with asyncio.timeout(10):
            assert "Ping" in (await lost).reason
        assert await asyncio.to_thread(child.wait, 10) == -signal.SIGKILL
    finally:
        child.kill()
        await process.end()


async def test_a_process_that_was_reaped_meanwhile_is_lost_as_any_other() -> None:
    process, child, lost = await _watched()
    child.kill()
    child.wait()
    # Before the loop hears of its end.
    process.kill_because("it does not answer")
    async with asyncio.timeout(10):
        assert (await lost).reason == "it does not answer"
    assert process.starting_pid is None
    await process.end()


def test_who_is_stopped() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert not is_stopped(child.pid)
        os.kill(child.pid, signal.SIGSTOP)
        until(lambda: is_stopped(child.pid))
        os.kill(child.pid, signal.SIGCONT)
        until(lambda: not is_stopped(child.pid))
    finally:
        child.kill()
        child.wait()
    assert not is_stopped(child.pid)
