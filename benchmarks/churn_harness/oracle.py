"""What freshly booted engines answer, asked one by one: no weights are ever swapped here.

The service runs with `--isolation reset` and every model belongs to a tenant of its own, so that each lease gets a
process of its own (path `fork` or `boot`, which is checked).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from churn_harness.lease import Answer, generate_by_lease
from churn_harness.models import Endpoint, with_answers
from churn_harness.pool import ChurnPool

BOOT_DEADLINE_S = 120.0
_ALTERNATIVES = 2


async def booted_answers(pool: ChurnPool, endpoints: Sequence[Endpoint]) -> dict[str, Endpoint]:
    """The endpoints with the answers of an engine for each model, by name. `pool` is not started yet and has ended
    afterwards."""
    assert "reset" in pool.flags
    booted: dict[Path, Endpoint] = {}
    await pool.start()
    try:
        async with aiohttp.ClientSession() as session:
            for endpoint in endpoints:
                if endpoint.folder not in booted:
                    booted[endpoint.folder] = await _booted(session, pool.url, endpoint)
    finally:
        left = await pool.stop()
    if left:
        raise RuntimeError(f"processes left behind: {left}")
    answered = [(endpoint, booted[endpoint.folder]) for endpoint in endpoints]
    return {one.name: dataclasses.replace(one, answers=of.answers, judged=of.judged) for one, of in answered}


async def _booted(session: aiohttp.ClientSession, url: str, endpoint: Endpoint) -> Endpoint:
    body = {
        "model": str(endpoint.folder),
        "model_name": endpoint.name,
        "tenant": endpoint.name,
        "deadline_s": BOOT_DEADLINE_S,
        "wait_s": BOOT_DEADLINE_S,
        "engine_args": endpoint.engine_args,
    }
    async with session.post(f"{url}/v1/leases", json=body) as answer:
        lease = await answer.json()
    if lease.get("path") not in ("fork", "boot"):
        raise RuntimeError(f"no fresh engine for {endpoint.name}: {lease}")
    answers: list[Answer] = [
        await generate_by_lease(lease, endpoint, prompt, endpoint.output_tokens, _ALTERNATIVES)
        for prompt in endpoint.prompts
    ]
    async with session.delete(f"{url}/v1/leases/{lease['lease_id']}"):
        pass
    return with_answers(
        endpoint, tuple(tuple(each.tokens) for each in answers), tuple(each.margins for each in answers)
    )
