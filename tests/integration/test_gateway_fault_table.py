"""The table of faults, over two real endpoints on vLLM: every stream says exactly what an undisturbed greedy run says.

pods' way   two endpoints of one model stand for two replicas, each behind a proxy that breaks what it is told to break
short way   what the engine's end does to its streams is in test_gateway_engine_loss.py
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
import yaml
from fault_proxy import FaultProxy
from front_door import DEADLINE_S, QUESTION, FrontDoor, endpoint, entries_of, pool_url
from pooled_platform import pooled_platform
from waiting import until, until_async

from pilotlight_engine.leasing.leased_holder import PoolAddress
from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.idempotency.answers_once import AnswersOnce
from pilotlight_gateway.pipeline import Pipeline, Steps
from pilotlight_gateway.pods_way.pods_way import PodsWay
from pilotlight_gateway.pods_way.replica_set import Timing
from pilotlight_gateway.request_steps import GatewayRequest, NoLimits, OpenDoor, Place
from pilotlight_gateway.resilience.patience import PatienceSettings
from pilotlight_gateway.short_way.short_way import ShortWay
from pilotlight_gateway.short_way.text_cache import TextCache
from pilotlight_gateway.short_way.text_loader import WorkerLoader
from pilotlight_gateway.ways import ChosenWay
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry, PodsAddress
from pilotlight_protocol.errors import PilotlightError, Unavailable
from pilotlight_text.responses_api.response_store import KeptHere
from pilotlight_text.text_workers.worker_room import WorkerRoom
from pilotlight_wire.handlers import RequestContext, Stream

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

TOKENS = 200
PATH = "/v1/chat/completions"
BODY = {
    "model": "chat",
    "messages": QUESTION,
    "max_tokens": TOKENS,
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}


@pytest.fixture(scope="module")
def door() -> Iterator[FrontDoor]:
    services = yaml.safe_dump_all([endpoint("chat", "auto"), endpoint("beside", "pods", "chat")])
    with pooled_platform(FrontDoor, services, DEADLINE_S) as running:
        until(running.is_ready, 60, lambda: running.log.read_text()[-2000:])
        yield running


class PodsFirst:
    def choose(self, request: GatewayRequest) -> ChosenWay:
        return ChosenWay("pods", "the test says so")


class Gate:
    """The gateway's steps over two replicas. `script`: of faults, one for each request that reaches either of them."""

    def __init__(self, door: FrontDoor, entries: dict[str, EndpointEntry], pool: str, *, goes_short: bool) -> None:
        self.script: list[str] = []
        self.proxies = [FaultProxy(door.port) for _ in range(2)]
        for proxy in self.proxies:
            proxy.script = self.script
        self._entries = entries
        self._room = WorkerRoom(1 << 30)
        self._loader = WorkerLoader(self._room, os.environ)
        self._table = EndpointTable()
        texts = TextCache(self._loader)
        self.short = ShortWay(PoolAddress(pool, ""), texts, KeptHere(), self._table)
        self.pods = PodsWay(Timing(connect_s=5.0), PatienceSettings(floor_s=1.0, ceiling_s=10.0), short=self.short)
        self._once = AnswersOnce()
        steps = Steps(
            OpenDoor(),
            self._table,
            NoLimits(),
            self._once,
            PodsFirst(),
            {"pods": self.pods, "short": self.short},
            self.pods.wake,
        )
        self._pipeline = Pipeline(steps)
        self._front: Any = "auto" if goes_short else "pods"

    async def open(self) -> None:
        await self._room.start()
        hosts = [self._entries[name].pods.host for name in ("chat", "beside")]
        replicas = tuple(PodsAddress(proxy.url, host) for proxy, host in zip(self.proxies, hosts, strict=True))
        entry = msgspec.structs.replace(
            self._entries["chat"], replicas=replicas, pods=replicas[0], pods_ready=1, front=self._front, timeout_s=120.0
        )
        self._table.apply(DirectoryAnswer("e", 1, whole=True, changed=(entry,)))

    @property
    def reached(self) -> int:
        return sum(len(proxy.requests) for proxy in self.proxies)

    async def say(self, **headers: str) -> str:
        context = RequestContext(headers.get("x-request-id", "r1"), headers, json.dumps(BODY).encode())
        result = await self._pipeline.answer(Place("POST", PATH, PATH, PATH, PATH, None), context)
        assert isinstance(result, Stream), result
        pieces: list[bytes] = []
        try:
            async with asyncio.timeout(100):
                pieces += [piece async for piece in result.events]
        finally:
            await result.events.aclose()  # type: ignore[attr-defined]
        return said_in(b"".join(pieces).decode())

    async def close(self) -> None:
        await self._once.close()
        await self.pods.close()
        await self.short.close()
        await self._loader.close()
        await self._room.close()


def said_in(stream: str) -> str:
    """The text of a whole stream of TOKENS tokens."""
    events = [line[6:] for line in stream.split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]", stream[-500:]
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[-1]["usage"]["completion_tokens"] == TOKENS
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.fixture(scope="module")
def undisturbed(door: FrontDoor) -> str:
    answer = httpx.post(f"{door.url}{PATH}", json=BODY, timeout=DEADLINE_S)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-pilotlight-way"].startswith("short")
    return said_in(answer.text)


@pytest_asyncio.fixture
async def gates(door: FrontDoor) -> AsyncIterator[Any]:
    async with contextlib.AsyncExitStack() as stack:
        entries = await entries_of(door)

        async def made(*, goes_short: bool) -> Gate:
            gate = Gate(door, entries, pool_url(door), goes_short=goes_short)
            stack.push_async_callback(gate.close)
            for proxy in gate.proxies:
                await stack.enter_async_context(proxy)
            await gate.open()
            return gate

        yield made


@pytest.mark.parametrize("fault", ["reset", "status 500", "status 503", "dies 10", "stalls 10", "cut 10"])
@pytest.mark.parametrize("goes_short", [True, False], ids=["then-short", "then-pods"])
async def test_a_fault_on_the_pods_way(gates: Any, undisturbed: str, fault: str, goes_short: bool) -> None:
    gate = await gates(goes_short=goes_short)
    gate.script[:] = [fault]
    assert await gate.say() == undisturbed
    after_the_first_byte = fault.endswith("10")
    assert gate.reached == (1 if after_the_first_byte and goes_short else 2)
    assert sum(proxy.broken for proxy in gate.proxies) == after_the_first_byte


async def test_fault_upon_fault(gates: Any, undisturbed: str) -> None:
    gate = await gates(goes_short=False)
    gate.script[:] = ["status 503", "dies 10", "reset", "stalls 10"]
    assert await gate.say() == undisturbed


async def test_both_backends_down(gates: Any, undisturbed: str) -> None:
    gate = await gates(goes_short=False)
    gate.script[:] = ["reset"] * 99
    with pytest.raises(Unavailable) as refused:
        await gate.say()
    assert refused.value.retry_after_s
    gate.script[:] = ["dies 10", *["reset"] * 99]
    async with asyncio.timeout(100):
        with pytest.raises(PilotlightError):
            await gate.say()


async def test_one_execution_for_a_request_id_through_a_fault(gates: Any, undisturbed: str) -> None:
    gate = await gates(goes_short=True)
    gate.script[:] = ["dies 10"]
    said = await asyncio.gather(*(gate.say(**{"x-request-id": "same"}) for _ in range(3)))
    assert said == [undisturbed] * 3
    assert gate.reached == 1


@pytest.mark.parametrize("model", ["chat", "beside"])
@pytest.mark.parametrize("kind", ["fin", "rst"])
async def test_a_client_that_drops_ends_the_work(door: FrontDoor, model: str, kind: str) -> None:
    await until_async(lambda: asyncio.to_thread(lambda: not door.working()), 60)
    body = json.dumps({**BODY, "model": f"default/{model}", "max_tokens": 900, "n": 16, "temperature": 1}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", door.gateway_port)
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    async with asyncio.timeout(DEADLINE_S):
        await reader.readuntil(b'"content":"')
        await reader.readuntil(b"data: ")
    assert await asyncio.to_thread(door.working)
    if kind == "rst":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()
    await until_async(lambda: asyncio.to_thread(lambda: not door.working()), 30, "the engine works on for nobody")
