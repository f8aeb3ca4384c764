"""A cluster's warm pool with real vLLM: two agents, a coordinator, a predictor, and each part is killed alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from apart_pool import ApartPool, Service
from component_process import RunningComponent, running
from server_ports import free_port
from tokenizers import Tokenizer
from warmup_pool import Holder, fine_tunes, generate

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
QUESTION = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
STORY = "Once upon a time"
EAGER = {"enforce_eager": "true", "max_model_len": "1024"}
LONG = {"max_tokens": 500, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def tunes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return fine_tunes(tmp_path_factory.mktemp("tunes"), 2)


class Stream:
    """A long greedy stream from a predictor, read as it comes."""

    def __init__(self, component: RunningComponent, prompt: list[int]) -> None:
        self.tokens: list[int] = []
        self._url = f"{component.base}/v2/models/{component.model_name}/generate_stream"
        self._prompt = prompt

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Stream]:
        """Ends when the stream has; an error event fails the test."""
        task = asyncio.create_task(self._read())
        try:
            yield self
            async with asyncio.timeout(120):
                await task
        finally:
            task.cancel()

    async def reaches(self, count: int) -> None:
        async with asyncio.timeout(120):
            while True:
                if len(self.tokens) >= count:
                    return
                await asyncio.sleep(0.005)

    async def _read(self) -> None:
        body = {"input_ids": self._prompt, "parameters": LONG}
        async with aiohttp.ClientSession() as session, session.post(self._url, json=body) as response:
            async for line in response.content:
                if line.strip():
                    event = json.loads(line.removeprefix(b"data: "))
                    assert "error" not in event, event
                    self.tokens += event["output_ids"]


async def held(pool: ApartPool) -> list[dict[str, Any]]:
    lines = (await pool.call("GET", "/v1/leases")).body["leases"]
    return [line for line in lines if line["state"] in {"active", "idle"}]


async def nothing_is_held(pool: ApartPool) -> None:
    async with asyncio.timeout(20):
        while True:
            if not await held(pool):
                return
            await asyncio.sleep(0.05)


async def holder_of(pool: ApartPool) -> tuple[str, Service]:
    (line,) = await held(pool)
    return line["lease_id"], await pool.agent_of(line["lease_id"])


async def test_each_part_is_killed_alone_and_no_token_is_lost_or_wrong(tunes: list[Path], tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tunes[0] / "tokenizer.json"))
    question, story = (tokenizer.encode(text).ids for text in (QUESTION, STORY))
    pool = ApartPool(
        tmp_path,
        "-m",
        "pilotlight_pool",
        coordinator_flags=("--lease_expires_s=9", "--agent_lost_s=10"),
        agent_flags=(f"--work_dir={tmp_path / 'work'}",),
    )
    async with pool:
        # A lease through each agent, and a swap: every fine-tune speaks for itself.
        terms = {"wait_s": 120, "deadline_s": 120, "engine_args": EAGER, "priority": "interactive"}
        first, second = await asyncio.gather(*(pool.lease(tune, name=tune.name, **terms) for tune in tunes))
        assert {(await pool.agent_of(lease["lease_id"])).name for lease in (first, second)} == {"n0", "n1"}
        for lease, tune in ((first, tunes[0]), (second, tunes[1])):
            assert tokenizer.decode(await generate(lease, 7, question)) == f"I am {tune.name}."
        await pool.release(first)
        async with Holder.open(second) as busy:
            await busy.frame()
            busy.ask(900)
            swapped = await pool.lease(tunes[1], name="again", tenant="other", **terms)
        assert swapped["path"] == "swap"
        assert tokenizer.decode(await generate(swapped, 7, question)) == f"I am {tunes[1].name}."
        for lease in (second, swapped):
            await pool.release(lease)

        argv = ["-m", "pilotlight_predictor", "--model_name=tune", f"--model_dir={tunes[0]}", "--lease_idle_s=1"]
        port = free_port()
        argv += [f"--http_port={port}", *(f"--engine_arg={name}={value}" for name, value in EAGER.items())]
        environment = {"PILOTLIGHT_POOL_URL": pool.url}
        with running(argv, port, tmp_path / "predictor.log", model_name="tune", environment=environment) as component:
            async with Stream(component, story).reading() as undisturbed:
                pass
            assert len(undisturbed.tokens) == 500

            # The coordinator dies: the stream goes on, the lease survives, and it is given back to the next one.
            async with Stream(component, story).reading() as stream:
                await stream.reaches(20)
                lease_id, _ = await holder_of(pool)
                pool.coordinator.kill()
                seen = len(stream.tokens)
                await stream.reaches(seen + 20)
                pool.coordinator.start()
                await pool.registered(2)
                assert [line["lease_id"] for line in await held(pool)] == [lease_id]
            assert stream.tokens == undisturbed.tokens
            assert "resumed" not in component.log.read_text()
            await nothing_is_held(pool)

            # An agent dies: the predictor goes on with the other, from the tokens that were sent.
            async with Stream(component, story).reading() as stream:
                await stream.reaches(20)
                _, agent = await holder_of(pool)
                agent.kill()
                await stream.reaches(len(stream.tokens) + 20)
                _, other = await holder_of(pool)
                assert other is not agent
            assert stream.tokens == undisturbed.tokens
            assert not agent.left()

            # Wrong tokens are refused, whoever comes.
            wrong = tmp_path / "wrong"
            wrong.write_text("0" * 64)
            stranger = pool.new_agent("stranger", wrong)
            pool.agents.append(stranger)
            stranger.start()
            await pool.until(lambda: "it answers 401" in stranger.log(), 30)
