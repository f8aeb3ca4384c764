"""One tenant floods the warm pool's service, over fake engines: how much longer does another one wait than alone?"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from pathlib import Path

import pytest
from warmup_pool import FAKE_POOL, Pool, fake_model, generate

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
SLOTS = ("--slot", "cpu:0=4GiB", "--slot", "cpu:1=4GiB")
# A swap of the 340 MB model takes a fifth of a second.
STEP_S, SWAP_S = 0.01, 0.2
QUIET_LEASES, QUIET_PAUSE_S, QUIET_TOKENS = 40, 0.3, 20
FLOOD_CLIENTS, FLOOD_TOKENS = 12, 400
DEADLINE_S = 30.0


async def quiet_waits_s(pool: Pool, models: list[Path], seed: int) -> list[float]:
    """Leases of tenant `quiet`, one at a time, so that it is within its share at every moment; how long each waited."""
    dice = random.Random(seed)
    waits_s: list[float] = []
    for number in range(QUIET_LEASES):
        await asyncio.sleep(dice.expovariate(1 / QUIET_PAUSE_S))
        began_s = time.monotonic()
        model = models[number % len(models)]
        lease = await pool.lease(model, tenant="quiet", priority="interactive", deadline_s=DEADLINE_S)
        waits_s.append(time.monotonic() - began_s)
        await generate(lease, QUIET_TOKENS)
        await pool.release(lease)
    return waits_s


async def flood(pool: Pool, models: list[Path], priority: str, number: int, held: list[float]) -> None:
    """Asks for leases without a pause, for ever; what is taken away from it is asked for again.

    Adds to `held` how long it had each of them, in seconds.
    """
    dice = random.Random(number)
    while True:
        answer = await pool.ask(dice.choice(models), tenant="flood", priority=priority, deadline_s=DEADLINE_S)
        if answer.status != 201 or answer.body["state"] != "active":
            assert answer.status in (201, 503), answer
            continue
        began_s = time.monotonic()
        try:
            with contextlib.suppress(EOFError, OSError):
                await generate(answer.body, FLOOD_TOKENS)
        finally:
            held.append(time.monotonic() - began_s)
            await pool.call("DELETE", f"/v1/leases/{answer.body['lease_id']}")


async def load_once(pool: Pool, quiet: list[Path], greedy: list[Path]) -> None:
    """Every model once, so that the service knows what a swap takes here."""
    for tenant, models in (("quiet", quiet), ("flood", greedy)):
        for model in models:
            await pool.release(await pool.lease(model, tenant=tenant))


def p95(waits_s: list[float]) -> float:
    return sorted(waits_s)[len(waits_s) * 95 // 100]


@pytest.mark.parametrize("priority", ["normal"])
async def test_a_flooding_tenant_at_most_doubles_anothers_wait(
    tmp_path_factory: pytest.TempPathFactory, priority: str
) -> None:
    tmp_path = tmp_path_factory.mktemp("fair")
    behaviour = {"step_s": STEP_S, "swap_s": SWAP_S}
    quiet = [fake_model(tmp_path / f"quiet-{number}", number, **behaviour) for number in range(4)]
    greedy = [fake_model(tmp_path / f"flood-{number}", 10 + number, **behaviour) for number in range(4)]
    held: list[float] = []

    # A service of its own for each: what a tenant has used lately counts, and this one begins with a clean slate.
    async with Pool(tmp_path_factory.mktemp("alone"), str(FAKE_POOL), *SLOTS) as pool:
        await load_once(pool, quiet, greedy)
        alone_s = await quiet_waits_s(pool, quiet, seed=3)
    async with Pool(tmp_path_factory.mktemp("beside"), str(FAKE_POOL), *SLOTS) as pool:
        await load_once(pool, quiet, greedy)
        floods = [asyncio.create_task(flood(pool, greedy, priority, n, held)) for n in range(FLOOD_CLIENTS)]
        began_s = time.monotonic()
        beside_s = await quiet_waits_s(pool, quiet, seed=3)
        took_s = time.monotonic() - began_s
        for task in floods:
            task.cancel()
        ended = await asyncio.gather(*floods, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
    figures = f"p95 alone {p95(alone_s):.3f} s, beside the flood {p95(beside_s):.3f} s; {len(held)} leases of the flood"
    assert p95(beside_s) <= 2 * p95(alone_s), figures
    # Work-conserving: the flood has at least the slot that the quiet tenant leaves.
    assert sum(held) >= took_s, figures
