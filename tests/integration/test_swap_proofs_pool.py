"""A pool boots what nobody has proven, proves it on this machine, and swaps it from then on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from warmup_pool import Pool, generate

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SCRIPTS = Path(__file__).parents[2] / "scripts"
EAGER = {"enforce_eager": "true", "max_num_seqs": "8", "max_model_len": "512"}
PROMPT = [5, 6, 7, 8, 9]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """GPTQ: no proof of it comes along."""
    made = [sys.executable, str(SCRIPTS / "prove_swaps.py"), "--case", "GPTQ", "--make-only"]
    folder = tmp_path_factory.mktemp("models")
    told = subprocess.run([*made, "--models", str(folder)], check=True, timeout=200, capture_output=True, text=True)
    first, second = told.stdout.split()
    return first, second


async def test_what_is_booted_is_proven_and_swapped_from_then_on(models: tuple[str, str], tmp_path: Path) -> None:
    settings = ("--slot", "cpu:0=4GiB", "--drain_s", "0", "--store", str(tmp_path / "store"))

    async def says(pool: Pool, model: str) -> tuple[str, list[int], str]:
        lease = await pool.lease(model, wait_s=120, deadline_s=120, engine_args=EAGER)
        tokens = await generate(lease, 7, PROMPT)
        await pool.release(lease)
        return lease["path"], tokens, " ".join(lease["reasons"])

    async with Pool(tmp_path, "-m", "pilotlight_pool", *settings) as pool:
        path, booted, _ = await says(pool, models[0])
        assert path == "fork"
        path, other, why = await says(pool, models[1])
        assert (path, booted != other) == ("fork", True)
        assert "not proven" in why
        (line,) = (await pool.call("GET", "/v1/proofs")).body["unproven"]
        assert sorted(line["models"]) == sorted(models)
        body = {"models": models, "engine_args": EAGER, "wait_s": 60}
        made = await pool.call("POST", "/v1/proofs", body)
        if made.status == 503:  # the engine that idles there takes its time to end on a busy machine
            made = await pool.call("POST", "/v1/proofs", body)
        assert (made.status, made.body.get("verdict")) == (200, "proven"), made.body
        assert (await pool.call("GET", "/v1/proofs")).body["unproven"] == []
        assert (await says(pool, models[0]))[:2] == ("fork", booted)
        assert (await says(pool, models[1]))[:2] == ("swap", other)
        assert (await says(pool, models[0]))[:2] == ("swap", booted)
    (kept,) = (tmp_path / "store" / "proofs").glob("*.json")
    assert made.body["evidence"]["swapped"].encode() in kept.read_bytes()
