"""Three gateways before the same endpoints and one redis-server: limits are exact over all of them, also while Redis is
started again under load; without Redis each counts for itself or refuses, as it was told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from component_process import RunningComponent, running
from counting_backend import PROMPT_TOKENS, CountingBackend
from endpoint_entries import entry, whole
from redis_server import RedisServer
from server_ports import free_port
from tenant_world import TenantWorld
from waiting import until_async

from pilotlight_gateway.limits.limit_terms import LimitTerms
from pilotlight_gateway.limits.redis_accounts import PLACE_S, account_key
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.endpoint_directory import PodsAddress

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

REPLICAS = 3
UNDER_LOAD_S = 100.0


class Replicas:
    """`ask` goes to one replica after the other, unless it is told to which."""

    def __init__(self, gateways: list[RunningComponent], keys: dict[str, str], session: aiohttp.ClientSession) -> None:
        self.gateways = gateways
        self._keys = keys
        self._session = session
        self._next = itertools.cycle(range(len(gateways)))

    async def ask(
        self, tenant: str, replica: int | None = None, request_id: str = "", **fields: Any
    ) -> tuple[int, dict[str, str]]:
        gateway = self.gateways[next(self._next) if replica is None else replica]
        headers = {"authorization": f"Bearer {self._keys[tenant]}"}
        if request_id:
            headers["idempotency-key"] = request_id
        body = {"model": "chat", "prompt": "x", **fields}
        async with self._session.post(f"{gateway.base}/v1/completions", json=body, headers=headers) as response:
            await response.read()
            return response.status, {name.lower(): value for name, value in response.headers.items()}


@contextlib.asynccontextmanager
async def replicas(
    folder: Path, server: RedisServer, terms: dict[str, LimitTerms], *more: str, count: int = REPLICAS
) -> AsyncIterator[tuple[Replicas, CountingBackend]]:
    state = folder / "state"
    state.mkdir()
    world, keys = TenantWorld(state), {}
    for tenant, limits in terms.items():
        world.tenant(tenant, TenantSettings(limits=limits, namespaces=("shared",)))
        keys[tenant] = world.key(tenant).shown
    world.store.close()
    async with contextlib.AsyncExitStack() as stack:
        backend = await stack.enter_async_context(CountingBackend().serving())
        pods = PodsAddress(f"http://127.0.0.1:{backend.port}", "chat.shared.localhost")
        endpoints = folder / "endpoints.json"
        endpoints.write_bytes(
            msgspec.json.encode(whole(entry("chat", "shared", pods=pods, pods_ready=1, front="pods")))
        )
        gateways = []
        for number in range(count):
            port = free_port()
            words = ["--host", "127.0.0.1", "--port", str(port), "--endpoints", str(endpoints), *more]
            argv = ["-m", "pilotlight_gateway", *words, "--state_dir", str(state)]
            started = running(
                argv, port, folder / f"gateway-{number}.log", environment={"PILOTLIGHT_REDIS_URL": server.url}
            )
            gateways.append(await asyncio.to_thread(stack.enter_context, started))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(30))
        )
        yield Replicas(gateways, keys, session), backend


async def all_told(server: RedisServer, tenant: str, requests: int) -> bool:
    account = await server.command("HGETALL", account_key(tenant))
    return sum(int(amount) for name, amount in account.items() if name.startswith(b"q")) == requests


async def load(clients: int, once: Callable[[], Awaitable[None]], until: asyncio.Event) -> None:
    async def client() -> None:
        while not until.is_set():
            await once()
            await asyncio.sleep(0.02)

    await asyncio.gather(*(client() for _ in range(clients)))


async def test_limits_are_exact_over_replicas_also_while_redis_is_started_again(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    terms = {
        "requests": LimitTerms(requests_per_minute=150),
        "tokens": LimitTerms(tokens_per_minute=10_000),
        "places": LimitTerms(concurrency=5),
        "day": LimitTerms(tokens_per_day=5_000),
    }
    asked: dict[str, dict[str, Any]] = {
        "requests": {"max_tokens": 1},
        "tokens": {"max_tokens": 40},
        "places": {"max_tokens": 1, "delay_s": 0.15},
        "day": {"max_tokens": 30},
    }
    statuses: dict[str, Counter[int]] = {tenant: Counter() for tenant in terms}
    without_retry_after = []
    try:
        async with replicas(tmp_path, server, terms, "--limits_without_redis", "refuse") as (front, backend):

            async def once(tenant: str) -> None:
                status, headers = await front.ask(tenant, **asked[tenant])
                statuses[tenant][status] += 1
                if status in (429, 503) and int(headers.get("retry-after", 0)) < 1:
                    without_retry_after.append((tenant, status))

            over, began_s = asyncio.Event(), time.monotonic()
            loads = [asyncio.create_task(load(6, lambda tenant=tenant: once(tenant), over)) for tenant in terms]  # type: ignore[misc]
            try:
                await until_async(
                    lambda: statuses["requests"][200] >= 40 and statuses["tokens"][200] >= 40, UNDER_LOAD_S
                )
                await asyncio.to_thread(server.kill)
                refused = sum(each[503] for each in statuses.values())
                await until_async(lambda: sum(each[503] for each in statuses.values()) > refused, UNDER_LOAD_S)
                await asyncio.to_thread(server.start)
                before = statuses["places"][200]
                for tenant in ("requests", "tokens", "day"):
                    seen = statuses[tenant][429]
                    await until_async(lambda tenant=tenant, seen=seen: statuses[tenant][429] > seen + 30, UNDER_LOAD_S)  # type: ignore[misc]
                await until_async(lambda: statuses["places"][200] > before + 20, UNDER_LOAD_S)
            finally:
                over.set()
                await asyncio.gather(*loads)
            # One, unless the machine is so busy that it took longer than a minute.
            minutes = math.ceil((time.monotonic() - began_s) / 60)
    finally:
        server.end()
    assert {status for each in statuses.values() for status in each} <= {200, 429, 503}
    assert not without_retry_after
    assert 149 <= statuses["requests"][200] <= 150 * minutes + 1
    assert backend.tokens["requests"] == statuses["requests"][200] * (PROMPT_TOKENS + 1)
    assert 9_900 <= backend.tokens["tokens"] <= 10_000 * minutes
    assert 4_950 <= backend.tokens["day"] <= 5_000
    assert backend.most_running["places"] == 5


@pytest.mark.parametrize("without", ["local", "refuse"])
async def test_without_redis_each_counts_for_itself_or_refuses(tmp_path: Path, without: str) -> None:
    """It was never there: gateways start all the same."""
    server, terms = RedisServer(tmp_path), {"team": LimitTerms(requests_per_minute=4)}
    async with replicas(tmp_path, server, terms, "--limits_without_redis", without, count=2) as (front, _):
        told = [await front.ask("team", number % 2) for number in range(12)]
        expected = [200] * 8 + [429] * 4 if without == "local" else [503] * 12
        assert [status for status, _ in told] == expected
        assert all(int(headers["retry-after"]) >= 1 for status, headers in told if status != 200)
        server.start()
        try:
            for gateway in front.gateways:
                # To those who ask for limits, and to those who ask for named answers.
                await until_async(gateway.log.read_text, holds=lambda log: log.count("Redis answers") >= 2)
                assert "Redis does not answer" in gateway.log.read_text()
            # What each let in by itself counts for both once it is told; who let nothing in has its four left.
            if without == "local":
                await until_async(lambda: all_told(server, "team", requests=8))
            expected = [429] * 6 if without == "local" else [200] * 4 + [429] * 2
            assert [(await front.ask("team", number % 2))[0] for number in range(6)] == expected
        finally:
            server.end()


async def test_a_killed_replica_gives_its_places_back_and_leaves_its_answers(tmp_path: Path) -> None:
    server, terms = RedisServer(tmp_path), {"team": LimitTerms(concurrency=3)}
    server.start()
    try:
        async with replicas(tmp_path, server, terms, count=2) as (front, backend):
            assert [(await front.ask("team", each, "named"))[0] for each in (0, 1)] == [200, 200]
            tokens = backend.tokens["team"]
            assert tokens == PROMPT_TOKENS + 1
            held = [asyncio.create_task(front.ask("team", 0, delay_s=60)) for _ in range(3)]
            await until_async(lambda: backend.running["team"] == 3)
            assert (await front.ask("team", 1))[0] == 429
            front.gateways[0].process.kill()
            for answer in await asyncio.gather(*held, return_exceptions=True):
                assert isinstance(answer, aiohttp.ClientError)

            assert (await front.ask("team", 1, "named"))[0] == 200
            assert (await front.ask("team", 1, "named", max_tokens=2))[0] == 409
            assert backend.tokens["team"] == tokens

            async def let_in() -> int:
                return (await front.ask("team", 1))[0]

            await until_async(let_in, deadline_s=PLACE_S + 10, holds=lambda status: status == 200)
    finally:
        server.end()
