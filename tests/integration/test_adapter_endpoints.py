"""Adapters as endpoints: a real pool with one slot, real vLLM, leases and predictors of two tenants."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from component_process import running
from random_adapters import BASE, Tensors, could_say, write_adapter
from server_ports import free_port
from warmup_pool import Pool, generate, kill

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280), pytest.mark.asyncio(loop_scope="module")]
PROMPT = [(number * 37) % 2000 + 5 for number in range(150)]
ADAPTERS = ((1, 8), (2, 16), (3, 5))  # seeds and ranks whose answers to it differ, and from the base's
ARGUMENTS = {"max_num_seqs": "8", "max_model_len": "1024"}
BASE_URI = "bundled://demo-bf16"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pool]:
    folder = tmp_path_factory.mktemp("pool")
    async with Pool(
        folder, "-m", "pilotlight_pool", "--slot", "cpu:0=4GiB", "--store", str(folder / "store")
    ) as running_pool:
        yield running_pool


async def leased(pool: Pool, adapter: Path, tenant: str) -> dict[str, Any]:
    return await pool.lease(
        BASE_URI, name=f"{tenant}-{adapter.name}", tenant=tenant, adapter=str(adapter), engine_args=ARGUMENTS,
        wait_s=120.0, deadline_s=240.0,
    )  # fmt: skip


def boots_and_swaps(pool: Pool) -> int:
    log = pool.log()
    return sum(log.count(f": {step} of ") for step in ("fork", "boot", "swap"))


async def test_three_endpoints_of_two_tenants_come_from_zero_on_one_slot(pool: Pool, tmp_path: Path) -> None:
    tenants = ("a", "b", "a")
    adapters = [write_adapter(tmp_path / f"adapter{seed}", seed, rank=rank) for seed, rank in ADAPTERS]
    leases = await asyncio.gather(*map(leased, [pool] * 3, adapters, tenants))
    assert sorted(lease["path"] for lease in leases) == ["adapter", "adapter", "fork"]
    assert boots_and_swaps(pool) == 1
    answers = await asyncio.gather(*(generate(lease, 16, PROMPT) for lease in leases))
    for adapter, tokens in zip(adapters, answers, strict=True):
        assert could_say(adapter, PROMPT, tokens)
    assert len({tuple(tokens) for tokens in answers}) == 3
    await pool.release(leases[0])
    again = await leased(pool, adapters[0], "a")
    assert (again["path"], await generate(again, 16, PROMPT)) == ("adapter", answers[0])
    for lease in (again, *leases[1:]):
        await pool.release(lease)
    assert boots_and_swaps(pool) == 1


def _wrong_shapes(tensors: Tensors) -> Tensors:
    return {name: half[:, :-8].contiguous() if "lora_A" in name else half for name, half in tensors.items()}


async def test_hostile_adapters_are_refused_for_good_and_the_neighbour_goes_on(pool: Pool, tmp_path: Path) -> None:
    good = write_adapter(tmp_path / "good", 5)
    lease = await leased(pool, good, "a")
    before, loaded = await generate(lease, 16, PROMPT), boots_and_swaps(pool)
    pickled = write_adapter(tmp_path / "pickled", 6)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    for adapter, words in (
        (write_adapter(tmp_path / "rank", 7, r=100_000), "rank 256 at most"),
        (write_adapter(tmp_path / "shapes", 8, change=_wrong_shapes), "as rank and base make it"),
        (write_adapter(tmp_path / "dora", 9, use_dora=True), "DoRA"),
        (pickled, "pickled"),
        (BASE, "not a LoRA adapter"),
        (tmp_path / "nowhere", "No such file"),
    ):
        answer = await pool.ask(BASE_URI, tenant="b", adapter=str(adapter), engine_args=ARGUMENTS)
        assert (answer.status in (400, 404), words in answer.body["error"]) == (True, True), (adapter, answer)
    other_base = await pool.ask(
        "bundled://demo-awq", tenant="b", adapter=str(tmp_path / "shapes"), engine_args=ARGUMENTS
    )
    assert other_base.status == 400
    assert await generate(lease, 16, PROMPT) == before
    assert boots_and_swaps(pool) == loaded
    await pool.release(lease)


async def test_a_predictor_answers_with_its_adapter_under_its_own_name(pool: Pool, tmp_path: Path) -> None:
    adapters = [write_adapter(tmp_path / f"adapter{seed}", seed, rank=rank) for seed, rank in ADAPTERS[:2]]
    loaded = boots_and_swaps(pool)
    async with httpx.AsyncClient(timeout=120.0) as client:
        with contextlib.ExitStack() as pods:
            said, pods_of = [], dict[str, str]()
            for adapter, tenant in zip(adapters, ("a", "b"), strict=True):
                pod = pods.enter_context(predictor(adapter, tmp_path, f"--pool_url={pool.url}", f"--tenant={tenant}"))
                pods_of[adapter.name] = pod.base
                said.append(await asked(client, pod.base, adapter.name))
            for adapter, tokens in zip(adapters, said, strict=True):
                assert could_say(adapter, PROMPT, tokens)
            assert said[0] != said[1]
            assert boots_and_swaps(pool) == loaded
            await both_go_on_after_a_loss(pool, client, {adapter: pods_of[adapter.name] for adapter in adapters})


async def both_go_on_after_a_loss(pool: Pool, client: httpx.AsyncClient, pods_of: dict[Path, str]) -> None:
    """The engine dies under a stream of each tenant: no token of either is another than its own adapter's."""
    begun: set[str] = set()

    def note(name: str) -> None:
        begun.add(name)
        if len(begun) == len(pods_of) and "killed" not in begun:
            begun.add("killed")
            kill(pool.engine_pid())

    said = await asyncio.gather(*(streamed(client, base, adapter.name, 200, note) for adapter, base in pods_of.items()))
    assert "killed" in begun
    for adapter, tokens in zip(pods_of, said, strict=True):
        assert (len(tokens), could_say(adapter, PROMPT, tokens)) == (200, True)


async def streamed(
    client: httpx.AsyncClient, base: str, name: str, max_tokens: int, note: Callable[[str], None]
) -> list[int]:
    """`note` is told the name with each event, from the third on."""
    tokens: list[int] = []
    body = {"input_ids": PROMPT, "parameters": {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}}
    async with client.stream("POST", f"{base}/v2/models/{name}/generate_stream", content=json.dumps(body)) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                tokens += event["output_ids"]
                if len(tokens) > 2:
                    note(name)
    return tokens


async def test_the_same_arguments_without_a_pool_boot_an_engine_with_the_adapter(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "own", 23)
    async with httpx.AsyncClient(timeout=120.0) as client:
        with predictor(adapter, tmp_path) as pod:
            assert could_say(adapter, PROMPT, await asked(client, pod.base, "own"))


def predictor(adapter: Path, folder: Path, *flags: str) -> Any:
    port = free_port()
    given = [f"--engine_arg={name}={value}" for name, value in ARGUMENTS.items()]
    argv = ["-m", "pilotlight_predictor", f"--model_name={adapter.name}", f"--model_uri={BASE_URI}"]
    argv += [f"--adapter={adapter}", f"--http_port={port}", *given, *flags]
    return running(argv, port, folder / f"{adapter.name}.log", deadline_s=150.0, model_name=adapter.name)


async def asked(client: httpx.AsyncClient, base: str, name: str, max_tokens: int = 16) -> list[int]:
    body = {"input_ids": PROMPT, "parameters": {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}}
    answer = await client.post(f"{base}/v2/models/{name}/generate", content=json.dumps(body))
    assert answer.status_code == 200, answer.text
    return list(answer.json()["output_ids"])
