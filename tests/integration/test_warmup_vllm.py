"""The warm pool with real vLLM on the CPU: fine-tunes of one architecture share one engine, and each stays itself."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from warmup_pool import Pool, fine_tunes, generate

pytestmark = pytest.mark.integration
QUESTION = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return fine_tunes(tmp_path_factory.mktemp("tenants"), 3)


@pytest.mark.timeout(300)
async def test_three_fine_tunes_share_one_engine_and_none_speaks_for_another(
    tenants: list[Path], tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(tenants[0] / "tokenizer.json"))
    prompt = tokenizer.encode(QUESTION).ids
    settings = ("--slot", "cpu:0=4GiB", "--drain_s", "0", "--store", str(tmp_path / "store"))
    async with Pool(tmp_path, "-m", "pilotlight_pool", *settings) as pool:

        async def says(model: Path | str, name: str) -> tuple[str, str, float]:
            lease = await pool.lease(
                model, name=name, tenant=name, wait_s=120, deadline_s=120, engine_args={"enforce_eager": "true"}
            )
            text = tokenizer.decode(await generate(lease, 7, prompt))
            await pool.release(lease)
            return lease["path"], text, sum(lease["phases_s"][part] for part in ("queue", lease["path"], "grant") if
                                            part in lease["phases_s"])  # fmt: skip

        path, text, _ = await says(tenants[0], "first")
        assert (path, text) == ("fork", "I am tenant-00.")
        for turn in range(6):
            model = tenants[(turn + 1) % 3]
            path, text, took_s = await says(model, model.name)
            assert (path, text) == ("swap", f"I am {model.name}.")
            assert took_s < 2.0  # tens of milliseconds; a boot takes many seconds
        path, text, _ = await says(tenants[0], tenants[0].name)
        assert (path, text) == ("loaded", "I am tenant-00.")

        # Another architecture cannot be swapped in: it gets an engine of its own, from the zygote.
        path, text, _ = await says("bundled://demo-bf16", "plain")
        assert path == "fork"
        assert text.startswith("I am")

        # A killed engine costs its holder the lease and nobody else anything.
        lease = await pool.lease(tenants[1], name="m", wait_s=120, engine_args={"enforce_eager": "true"})
        os.kill(pool.engine_pid(), signal.SIGKILL)
        await pool.until(lambda: "the engine was lost" in pool.log())
        assert (await pool.heartbeat(lease)).status == 410
        assert (await says(tenants[2], "t"))[:2] == ("fork", "I am tenant-02.")

        answer = await pool.ask(tenants[0], wait_s=120, deadline_s=120, engine_args={"no_such_argument": "1"})
        assert answer.status == 400, answer
        assert "no_such_argument" in answer.body["error"]


@pytest.mark.timeout(300)
async def test_an_engine_that_stands_still_in_its_boot_is_replaced(tenants: list[Path], tmp_path: Path) -> None:
    prompt = Tokenizer.from_file(str(tenants[0] / "tokenizer.json")).encode(QUESTION).ids
    settings = ("--slot", "cpu:0=4GiB", "--drain_s", "0", "--store", str(tmp_path / "store"))
    async with Pool(tmp_path, "-m", "pilotlight_pool", *settings) as pool:
        arguments = {"enforce_eager": "true"}
        asked = asyncio.create_task(pool.lease(tenants[0], wait_s=120, deadline_s=120, engine_args=arguments))
        await pool.until(lambda: "the engine of cpu:0 is pid" in pool.log(), 120)
        stopped = pool.engine_pid()
        os.kill(stopped, signal.SIGSTOP)
        assert len(await generate(await asked, 7, prompt)) == 7
        assert pool.engine_pid() != stopped
        assert "the engine was lost: it was stopped for" in pool.log()
