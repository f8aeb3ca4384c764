"""A gateway that is told to end, behind clients that go to another one: nothing is lost, streams end whole."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from component_process import RunningComponent, running
from endpoint_entries import whole
from pods_backend import PodsBackend
from server_ports import free_port
from waiting import until_async

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "prod/chat", "messages": [{"role": "user", "content": "hi"}]}
OK, GOES_ELSEWHERE = 200, 503


@pytest_asyncio.fixture
async def backend() -> AsyncIterator[PodsBackend]:
    async with PodsBackend("chat").serving() as made:
        yield made


@pytest_asyncio.fixture
async def gateways(backend: PodsBackend, tmp_path: Path) -> AsyncIterator[list[RunningComponent]]:
    endpoints = tmp_path / "endpoints.json"
    endpoints.write_bytes(msgspec.json.encode(whole(backend.entry())))
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for name in ("first", "second"):
            port = free_port()
            argv = ["-m", "pilotlight_gateway", f"--port={port}", "--host=127.0.0.1", "--auth=open"]
            argv += [f"--endpoints={endpoints}"]
            entered = running(argv, port, tmp_path / f"{name}.log")
            made.append(await asyncio.to_thread(entered.__enter__))
            stack.push_async_callback(asyncio.to_thread, entered.__exit__, None, None, None)
        yield made


async def answered(client: aiohttp.ClientSession, bases: list[str]) -> int:
    """The status of who answers first, in turn, as a client or a Service behind it tries."""
    status = 0
    for base in bases:
        try:
            async with client.post(base + CHAT, json=BODY) as answer:
                status = answer.status
                await answer.read()
        except aiohttp.ClientError:
            continue
        if status != GOES_ELSEWHERE:
            return status
    return status


async def test_nothing_is_lost_while_a_gateway_drains(backend: PodsBackend, gateways: list[RunningComponent]) -> None:
    first, second = gateways
    backend.flows.clear()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as client:
        stream = await client.post(first.base + CHAT, json={**BODY, "stream": True})
        statuses: list[int] = []
        drained = asyncio.Event()

        async def asking() -> None:
            while not drained.is_set():
                statuses.append(await answered(client, [first.base, second.base]))

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(asking())
            await until_async(lambda: len(statuses) > 50)
            first.process.send_signal(signal.SIGTERM)
            await until_async(lambda: _is_not_ready(client, first), what="not ready from the first moment")
            before = len(statuses)
            await until_async(lambda: len(statuses) > before + 50)
            assert first.process.poll() is None, "it has a stream that has not ended"
            backend.flows.set()
            events = (await stream.read()).split(b"\n\n")
            assert events[-2] == b"data: [DONE]"
            await until_async(lambda: first.process.poll() is not None, what="ended")
            before = len(statuses)
            await until_async(lambda: len(statuses) > before + 50)
            drained.set()
    assert set(statuses) == {OK}
    assert first.process.returncode == 0


async def _is_not_ready(client: aiohttp.ClientSession, gateway: RunningComponent) -> bool:
    """On a connection of its own: those that are open are served to their end."""
    async with client.get(gateway.base + "/readyz", headers={"connection": "close"}) as answer:
        return answer.status == GOES_ELSEWHERE
