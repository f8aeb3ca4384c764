"""What freshly booted engines answer, asked one by one: no weights are ever swapped here.

The service runs with `--isolation reset` and every model belongs to a tenant of its own, so that each lease gets a
process of its own (path `fork` or `boot`, which is checked).
"""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp
from churn_driver import Tally, generate_by_lease
from churn_models import Endpoint
from churn_pool import ChurnPool

BOOT_DEADLINE_S = 120.0


async def booted_answers(pool: ChurnPool, endpoints: Sequence[Endpoint]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The answers to every prompt by endpoint name. `pool` is not started yet and has ended afterwards."""
    assert "reset" in pool.flags
    found = {}
    await pool.start()
    try:
        async with aiohttp.ClientSession() as session:
            for endpoint in endpoints:
                body = {
                    "model": str(endpoint.folder),
                    "model_name": endpoint.name,
                    "tenant": endpoint.name,
                    "deadline_s": BOOT_DEADLINE_S,
                    "wait_s": BOOT_DEADLINE_S,
                    "engine_args": endpoint.engine_args,
                }
                async with session.post(f"{pool.url}/v1/leases", json=body) as answer:
                    lease = await answer.json()
                if lease.get("path") not in ("fork", "boot"):
                    raise RuntimeError(f"no fresh engine for {endpoint.name}: {lease}")
                tally = Tally()
                answers = [await generate_by_lease(lease, endpoint, n, tally) for n in range(len(endpoint.prompts))]
                async with session.delete(f"{pool.url}/v1/leases/{lease['lease_id']}"):
                    pass
                found[endpoint.name] = tuple(map(tuple, answers))
    finally:
        left = await pool.stop()
    if left:
        raise RuntimeError(f"processes left behind: {left}")
    return found
