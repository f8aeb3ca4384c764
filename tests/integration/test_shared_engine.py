"""Two predictor pods of one endpoint on one slot: a real pool, real predictors, real vLLM with a batch of four."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from component_process import RunningComponent, running
from server_ports import free_port
from warmup_pool import Pool

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]
DEADLINE_S = 60.0
BATCH = 4
FLAGS = (
    "--model_name=m",
    "--model_uri=bundled://demo-awq",
    "--engine_arg=enforce_eager=true",
    f"--engine_arg=max_num_seqs={BATCH}",
    "--engine_arg=max_model_len=1024",
)


@dataclass
class Pods:
    pool: Pool
    one: RunningComponent
    other: RunningComponent


@dataclass
class Stream:
    """`events`: when they came, on the loop's clock."""

    events: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    error: str = ""


async def read(client: httpx.AsyncClient, pod: RunningComponent, tokens: int, seen: Stream, prompt: int = 40) -> Stream:
    body = {
        "input_ids": [prompt, 41, 42],
        "parameters": {"max_tokens": tokens, "temperature": 0, "ignore_eos": True},
    }
    async with client.stream("POST", f"{pod.base}/v2/models/m/generate_stream", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line:
                event = json.loads(line.removeprefix("data: "))
                seen.error = event.get("error", "")
                seen.tokens += event.get("output_ids", [])
                seen.events.append(time.monotonic())
    return seen


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=DEADLINE_S, limits=httpx.Limits(max_connections=None)) as client:
        yield client


@contextlib.asynccontextmanager
async def two_pods(folder: Path) -> AsyncIterator[Pods]:
    settings = ("--slot", "cpu:0=4GiB", "--store", str(folder / "store"))
    async with Pool(folder, "-m", "pilotlight_pool", *settings) as pool:
        with contextlib.ExitStack() as stack:
            pods = []
            for name in ("one", "other"):
                port = free_port()
                argv = ["-m", "pilotlight_predictor", *FLAGS, f"--http_port={port}", f"--pool_url={pool.url}"]
                log = folder / f"{name}.log"
                pods.append(stack.enter_context(running(argv, port, log, deadline_s=120.0, model_name="m")))
            yield Pods(pool, *pods)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pods(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pods]:
    async with two_pods(tmp_path_factory.mktemp("shared")) as pods:
        yield pods


async def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)


async def both(client: httpx.AsyncClient, pods: Pods, tokens: int) -> list[Stream]:
    return await asyncio.gather(*(read(client, pod, tokens, Stream()) for pod in (pods.one, pods.other)))


async def leases(pods: Pods) -> list[str]:
    """Paths of those that have an engine."""
    lines = (await pods.pool.call("GET", "/v1/leases")).body["leases"]
    return sorted(line["path"] for line in lines if line["state"] in ("active", "idle"))


async def test_both_answer_with_one_engine_at_the_same_time(client: httpx.AsyncClient, pods: Pods) -> None:
    one, other = await both(client, pods, 200)
    assert one.tokens == other.tokens
    assert len(one.tokens) == 200
    overlap_s = min(one.events[-1], other.events[-1]) - max(one.events[0], other.events[0])
    assert overlap_s > 0.5 * (one.events[-1] - one.events[0]), "their streams run beside each other"
    assert len(await leases(pods)) == 2
    assert "share" in await leases(pods)
    slots = await pods.pool.slots()
    assert [slot["state"] for slot in slots] == ["leased"]


async def test_a_pod_with_many_requests_leaves_the_others_their_turn(client: httpx.AsyncClient, pods: Pods) -> None:
    await both(client, pods, 4)
    many = [Stream() for _ in range(10 * BATCH)]
    flood = [asyncio.create_task(read(client, pods.one, 40, seen)) for seen in many]
    await until(lambda: sum(bool(seen.events) for seen in many) >= BATCH)
    few = [await read(client, pods.other, 40, Stream(), prompt=50 + number) for number in range(3)]
    done_first = sum(task.done() for task in flood)
    await asyncio.gather(*flood)
    assert all(len(seen.tokens) == 40 for seen in [*many, *few])
    # One at a time, each waits for the end of what runs at most: of the batch, not of the queue.
    assert done_first <= 3 * (BATCH + BATCH), "of forty that came before"


async def test_clients_that_hang_up_free_their_pods_share(client: httpx.AsyncClient, pods: Pods) -> None:
    await both(client, pods, 4)
    gone = [asyncio.create_task(read(client, pods.one, 900, Stream())) for _ in range(6 * BATCH)]
    await asyncio.sleep(0)
    seen = Stream()
    stays = asyncio.create_task(read(client, pods.other, 60, seen))
    await until(lambda: bool(seen.events))
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    assert len((await stays).tokens) == 60
    began_s = time.monotonic()
    again = await asyncio.gather(*(read(client, pods.other, 8, Stream()) for _ in range(BATCH)))
    assert all(len(stream.tokens) == 8 for stream in again)
    assert time.monotonic() - began_s < 10.0, "nothing of 24 streams of 900 tokens is left before them"


async def test_a_pod_that_dies_cuts_nobody_elses_stream(client: httpx.AsyncClient, pods: Pods) -> None:
    """The last: one pod is gone after it. It may be the one whose lease the slot is charged to, and here it is."""
    await both(client, pods, 4)
    dying, living = Stream(), Stream()
    cut = asyncio.create_task(read(client, pods.one, 900, dying))
    goes_on = asyncio.create_task(read(client, pods.other, 600, living))
    await until(lambda: bool(dying.events and living.events))
    pods.one.process.send_signal(signal.SIGKILL)
    with pytest.raises(httpx.TransportError):
        await cut
    assert (len((await goes_on).tokens), living.error) == (600, "")
    assert len(dying.tokens) < 900
    end_s = time.monotonic() + DEADLINE_S
    while len(await leases(pods)) > 1:
        assert time.monotonic() < end_s, "the dead pod's lease expires"
        await asyncio.sleep(0.1)
    assert len((await read(client, pods.other, 8, Stream())).tokens) == 8
