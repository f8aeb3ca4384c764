"""What the soak asks of the front door with a tenant's key: chat, V2, streams, and clients that hang up, in bursts."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

BURST_S = (10.0, 30.0)
IDLE_S = (25.0, 70.0)
ACTIVE_AT_ONCE = 2
REQUEST_DEADLINE_S = 240.0
COLD_S = 3.0


@dataclass
class Tally:
    """`ways`: of answered requests, as the gateway names them."""

    latencies_s: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    ways: dict[str, int] = field(default_factory=dict)
    cold: int = 0

    @property
    def requests(self) -> int:
        return sum(map(len, self.latencies_s.values()))


@dataclass(frozen=True)
class Door:
    """`url`: of the gateway. `key`: of the tenant whose endpoints are asked."""

    url: str
    key: str


class Client:
    """Of one endpoint: asks in bursts of three at once, and is silent in between, so that it goes to zero."""

    def __init__(self, door: Door, name: str, tally: Tally, seed: str) -> None:
        self._door, self._name, self._tally = door, name, tally
        self._dice = random.Random(seed)

    async def run(self, until_s: float, slots: asyncio.Semaphore) -> None:
        timeout = aiohttp.ClientTimeout(total=REQUEST_DEADLINE_S)
        headers = {"authorization": f"Bearer {self._door.key}"}
        async with aiohttp.ClientSession(self._door.url, timeout=timeout, headers=headers) as self._session:
            while time.monotonic() < until_s:
                async with slots:
                    await self._one()
                    burst_until_s = min(until_s, time.monotonic() + self._dice.uniform(*BURST_S))
                    await asyncio.gather(*(self._burst(burst_until_s) for _ in range(3)))
                await asyncio.sleep(min(self._dice.uniform(*IDLE_S), max(0.0, until_s - time.monotonic())))

    async def _burst(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            await self._one()
            await asyncio.sleep(self._dice.uniform(0.05, 0.6))

    async def _one(self) -> None:
        kinds = {"chat": self._chat, "generate_stream": self._stream, "infer": self._infer, "disconnect": self._leave}
        kind = self._dice.choices(list(kinds), [4, 3, 2, 1])[0]
        begun_s = time.monotonic()
        try:
            await kinds[kind]()
        except Exception as error:
            self._tally.failures.append(f"{time.strftime('%H:%M:%S')} {self._name}: {error!r}")
        took_s = time.monotonic() - begun_s
        self._tally.cold += took_s > COLD_S
        self._tally.latencies_s.setdefault(kind, []).append(took_s)

    async def _chat(self) -> None:
        stream = self._dice.random() < 0.5
        body = {
            "model": self._name,
            "messages": [{"role": "user", "content": "What is scale to zero?"}],
            "max_tokens": self._dice.randrange(8, 64),
            "stream": stream,
        }
        async with self._session.post("/v1/chat/completions", json=body) as answer:
            text = await answer.text()
            self._check(answer, not stream or text.rstrip().endswith("data: [DONE]"), text)

    async def _stream(self) -> None:
        body = {"text_input": "Once upon a time", "parameters": {"max_tokens": self._dice.randrange(8, 64)}}
        async with self._session.post(f"/v2/models/{self._name}/generate_stream", json=body) as answer:
            text = await answer.text()
            events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
            self._check(answer, bool(events) and events[-1].get("finish_reason") is not None, text)

    async def _infer(self) -> None:
        prompts = ["The little robot", "The sun"][: self._dice.randrange(1, 3)]
        body = {
            "inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [len(prompts)], "data": prompts}],
            "parameters": {"max_tokens": 16},
        }
        async with self._session.post(f"/v2/models/{self._name}/infer", json=body) as answer:
            value: dict[str, Any] = await answer.json()
            self._check(answer, "outputs" in value and value["outputs"][0]["shape"] == [len(prompts)], str(value))

    async def _leave(self) -> None:
        """A client that hangs up after the first bytes; nothing to check but that nothing else breaks."""
        body = {"text_input": "Once upon a time", "parameters": {"max_tokens": 400, "ignore_eos": True}}
        async with self._session.post(f"/v2/models/{self._name}/generate_stream", json=body) as answer:
            await answer.content.readany()
            answer.close()

    def _check(self, answer: aiohttp.ClientResponse, is_whole: bool, told: str) -> None:
        if answer.status != 200 or not is_whole:
            raise RuntimeError(f"{answer.url.path}: {answer.status} {told[-300:]}")
        way = answer.headers["x-pilotlight-way"].partition(";")[0]
        self._tally.ways[way] = self._tally.ways.get(way, 0) + 1


async def clients(door: Door, names: list[str], until_s: float, tally: Tally, seed: str) -> None:
    """Returns when all of them have ended."""
    slots = asyncio.Semaphore(ACTIVE_AT_ONCE)
    await asyncio.gather(*(Client(door, name, tally, f"{seed}-{name}").run(until_s, slots) for name in names))
