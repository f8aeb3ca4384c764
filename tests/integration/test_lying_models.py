"""Models whose files lie, on a pool with real vLLM: refused with the reason, in bounded memory; nobody else notices.

What each lie is told with is tests/unit/engine/test_checkpoint_check.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import struct
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from warmup_pool import Answer, Pool, generate

from pilotlight_models import bundled_model_path

pytestmark = pytest.mark.integration
GIB = 2**30
GOOD, EAGER = "bundled://demo-awq", {"enforce_eager": "true"}
QUERY = "model.layers.1.self_attn.q_proj.weight"
# vLLM would take hundreds of GiB; to the check it is an architecture like any other that it does not know.
HUGE = {
    "architectures": ["GraniteForCausalLM"], "model_type": "granite", "hidden_size": 20_000, "intermediate_size": 2_000,
    "num_hidden_layers": 1_000,
}  # fmt: skip


def copied(folder: Path, config: dict[str, Any] | None = None, generation_config: str | None = None) -> Path:
    shutil.copytree(bundled_model_path("demo-bf16"), folder)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | (config or {})))
    if generation_config is not None:
        (folder / "generation_config.json").write_text(generation_config)
    return folder


def with_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    file = copied(folder) / "model.safetensors"
    data = file.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[end:])
    return folder


def renamed(header: dict[str, Any]) -> None:
    header[QUERY.replace("q_proj", "q_porj")] = header.pop(QUERY)


def emptied(header: dict[str, Any]) -> None:
    entry = header[QUERY]
    begin, end = entry["data_offsets"]
    header["filler"] = entry | {"data_offsets": [begin, end]}
    header[QUERY] = {"dtype": "BF16", "shape": [0, 256], "data_offsets": [begin, begin]}


LIES: dict[str, Callable[[Path], Path]] = {
    "hidden_size 1000000000": lambda folder: copied(folder, {"hidden_size": 10**9}),
    "vocab_size 1024": lambda folder: copied(folder, {"vocab_size": 1024}),
    "vocab_size 4096": lambda folder: copied(folder, {"vocab_size": 4096}),
    "hidden_size is '256'": lambda folder: copied(folder, {"hidden_size": "256"}),
    "q_porj": lambda folder: with_header(folder, renamed),
    "[0, 256], not [256, 256]": lambda folder: with_header(folder, emptied),
    "generation_config.json": lambda folder: copied(folder, generation_config="{"),
    "num_experts is 1000000000": lambda folder: copied(folder, {"num_experts": 10**9}),
}


def memory_bytes(pool: Pool) -> int:
    """Of the service, its zygote and its engines together, shared pages counted once."""
    taken = 0
    for pid in (pool.process.pid, *pool.children()):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            taken += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return taken


@contextlib.asynccontextmanager
async def repeated(work: Callable[[], Any]) -> AsyncIterator[list[Any]]:
    """What `work` returned, again and again while the block runs."""
    results: list[Any] = []

    async def go() -> None:
        while True:
            results.append(await work())
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        going = tasks.create_task(go())
        yield results
        going.cancel()


async def timed(asking: Any) -> tuple[Answer, float]:
    began_s = time.monotonic()
    return await asking, time.monotonic() - began_s


@pytest.mark.timeout(240)
async def test_liars_are_refused_in_bounded_memory_and_a_good_model_answers_meanwhile(tmp_path: Path) -> None:
    slots = ("--slot", "cpu:0=3GiB", "--slot", "cpu:1=3GiB")
    async with Pool(tmp_path, "-m", "pilotlight_pool", *slots, "--store", str(tmp_path / "store")) as pool:

        async def ask(model: Path) -> tuple[Answer, float]:
            return await timed(pool.ask(model, tenant="liar", wait_s=100, deadline_s=100, engine_args=EAGER))

        lease = await pool.lease(GOOD, tenant="good", wait_s=100, deadline_s=100, engine_args=EAGER)
        said = await generate(lease, 8)

        async def answered() -> tuple[bool, float]:
            began_s = time.monotonic()
            return await generate(lease, 8) == said, time.monotonic() - began_s

        async with (
            repeated(answered) as answers,
            repeated(lambda: asyncio.to_thread(memory_bytes, pool)) as memory,
            repeated(lambda: pool.heartbeat(lease)),
        ):
            for number, (reason, lie) in enumerate(LIES.items()):
                answer, took_s = await ask(lie(tmp_path / f"lie-{number}"))
                assert (answer.status, took_s < 20.0) == (400, True), (answer, took_s)
                assert reason in answer.body["error"]

            huge = copied(tmp_path / "huge", HUGE)
            answer, first_s = await ask(huge)
            assert (answer.status, first_s < 90.0) == (400, True), (answer, first_s)
            assert "its slot (--slot) has 3.0 GiB" in answer.body["error"]
            booted = pool.log().count("the engine refuses its configuration")
            assert booted
            answer, again_s = await ask(huge)
            assert (answer.status, again_s < 20.0) == (400, True), (answer, again_s)
            assert pool.log().count("the engine refuses its configuration") == booted, "it was not tried again"

            # Its files change, and it is another model.
            shutil.copyfile(bundled_model_path("demo-bf16") / "config.json", huge / "config.json")
            mended, _ = await ask(huge)
            assert (mended.status, mended.body["state"]) == (201, "active"), mended

        print(f"refused after {first_s:.2f} s, then {again_s:.3f} s; the whole took {max(memory) / GIB:.2f} GiB;",
              f"{len(answers)} answers meanwhile, the slowest after {max(s for _, s in answers):.2f} s")  # fmt: skip
        assert max(memory) < 4 * GIB
        assert answers
        assert all(same for same, _ in answers)
