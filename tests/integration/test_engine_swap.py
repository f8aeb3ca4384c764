"""Swaps in real vLLM on the CPU: what a swapped engine says is what a freshly booted one says. Hosts are forked.

Every pair in swap_rules.PROVEN is proven here, eager and compiled; add the test before the pair.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pool_agent import Host, ZygoteProcess, private_dir
from tokenizers import Tokenizer

from pilotlight_engine.client import pool_client
from pilotlight_models import bundled_model_path
from pilotlight_protocol.engine_frames import (
    GenerateRequest,
    HostConfig,
    HostExited,
    Shutdown,
    Swap,
    SwapCheck,
    SwapFailed,
    SwapRefused,
)
from pilotlight_protocol.generation import GenerationParameters, TokenDelta
from pilotlight_protocol.structured_outputs import StructuredOutputs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_models.py"
# Longer than two KV blocks (128 tokens each on a CPU), so that a prefix of it is cached.
PROMPT = [5, 6, 7, 8, 9, 10, 11, 12] * 40
SECRET = "0" * 64


@dataclass(frozen=True)
class Answer:
    """What an engine says to PROMPT, greedily; `cached` tokens of the prompt were found in its prefix cache."""

    tokens: list[int]
    logprobs: list[float]
    swap_check: SwapCheck
    cached: int = 0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Three of each kind. `awq` and `bf16` have tied embeddings (the bundled model and two of it that were changed)."""
    root = tmp_path_factory.mktemp("models")

    def made(name: str, *arguments: str) -> list[Path]:
        subprocess.run([sys.executable, str(SCRIPT), "--out", str(root / name), *arguments], check=True, timeout=300)
        return sorted((root / name).iterdir())

    return {
        "awq": [bundled_model_path("demo-awq"), *made("awq", "--from-demo", "--count", "2", "--quantization", "awq")],
        "bf16": [bundled_model_path("demo-bf16"), *made("bf16", "--from-demo", "--count", "2")],
        "bf16-untied": made("untied", "--preset", "tiny", "--count", "3"),
        "awq-untied": made("awq-untied", "--preset", "demo", "--count", "3", "--quantization", "awq"),
    }


class Slot:
    """A host in a slot of its own, with room to keep what it has packed; ends with the block."""

    def __init__(self, zygote: ZygoteProcess, model: Path, run_dir: Path, *, eager: bool) -> None:
        arguments = {"max_num_seqs": "8"} | ({"enforce_eager": "true"} if eager else {})
        self._zygote = zygote
        self._leases = 0
        self.host: Host = zygote.fork(
            HostConfig(
                slot=run_dir.name, listen=f"unix://{private_dir(run_dir)}/engine.sock", model_dir=str(model),
                model_name="first", engine_args=arguments, cpus=2, memory_bytes=4 << 30,
            )
        )  # fmt: skip
        self.booted = self.host.wait_booted()
        self.swap_check = self.booted.swap_check

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.host.send(Shutdown())
            self._zygote.frames.until(HostExited, deadline_s=20.0)

    def swap(self, model: Path) -> None:
        self.swap_check = self.host.swap(model, name=model.name, generation=self._leases + 1).swap_check

    def ask_ids(self, **parameters: Any) -> list[int]:
        return [token for delta in self.ask(**parameters) for token in delta.token_ids]

    def answer(self, tenant: str = "tenant", **parameters: Any) -> Answer:
        deltas = self.ask(tenant, temperature=0.0, max_tokens=24, ignore_eos=True, logprobs=1, **parameters)
        entries = [entry for delta in deltas for entry in delta.logprobs or []]
        tokens = [token for delta in deltas for token in delta.token_ids]
        return Answer(tokens, [entry.logprob for entry in entries], self.swap_check, deltas[0].cached_tokens)

    def ask(self, tenant: str = "tenant", **parameters: Any) -> list[TokenDelta]:
        self._leases += 1
        lease = f"lease-{self._leases}"
        self.host.grant(lease, SECRET, tenant)

        async def collect() -> list[TokenDelta]:
            engine = await pool_client.connect(self.booted.endpoint, lease, SECRET)
            self.told_rate = engine.stats.generation_tokens_per_s
            request = GenerateRequest("r", PROMPT, GenerationParameters(**parameters))
            deltas = [delta async for some in engine.generate(request) for delta in some]
            self.metrics = (await engine.metrics()).decode()
            await engine.close()
            return deltas

        return asyncio.run(collect())


@pytest.mark.parametrize("kind", ["awq", "bf16", "bf16-untied", "awq-untied"])
def test_a_swapped_engine_answers_as_a_booted_one(
    zygote: ZygoteProcess, models: dict[str, list[Path]], tmp_path: Path, kind: str
) -> None:
    booted: list[Answer] = []
    for number, model in enumerate(models[kind]):
        with Slot(zygote, model, tmp_path / f"fresh-{number}", eager=True) as fresh:
            booted.append(fresh.answer())
    assert len({tuple(answer.tokens) for answer in booted}) == 3, "the models must differ to prove anything"
    a, b, c = models[kind]
    with Slot(zygote, a, tmp_path / "swapped", eager=True) as slot:
        assert slot.answer() == booted[0]
        for number, model in ((1, b), (0, a), (2, c), (1, b)):
            slot.swap(model)
            assert slot.answer() == booted[number]
        again = slot.answer()
        assert (again.tokens, again.cached > 0) == (booted[1].tokens, True)


@pytest.mark.parametrize("kind", ["awq", "bf16"])
def test_so_does_a_compiled_one(
    zygote: ZygoteProcess, models: dict[str, list[Path]], tmp_path: Path, kind: str
) -> None:
    a, b, c = models[kind]
    with Slot(zygote, a, tmp_path / "swapped", eager=False) as slot:
        first = slot.answer()
        slot.swap(b)
        assert slot.answer().tokens != first.tokens
        slot.swap(a)
        assert slot.answer() == first
        slot.swap(c)
        swapped = slot.answer()
    # It runs the graph that was compiled for the first one; this one has compiled for itself.
    work_dir = private_dir(tmp_path / "alone")
    with ZygoteProcess(work_dir, work_dir / "zygote.log") as alone:
        alone.wait_ready()
        with Slot(alone, c, tmp_path / "fresh", eager=False) as fresh:
            assert swapped == fresh.answer()
    assert "saved AOT compiled function" in (work_dir / "zygote.log").read_text(errors="replace")


def test_neither_keys_nor_metrics_pass_to_the_next_tenant(
    zygote: ZygoteProcess, models: dict[str, list[Path]], tmp_path: Path
) -> None:
    with Slot(zygote, models["bf16-untied"][0], tmp_path / "slot", eager=True) as slot:
        assert slot.answer("a").cached == 0
        assert slot.answer("a").cached > 0
        assert slot.told_rate > 0.0
        assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="first"} 2.0' in slot.metrics
        assert slot.answer("b").cached == 0
        assert slot.told_rate == 0.0
        assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="first"} 1.0' in slot.metrics
        slot.swap(models["bf16-untied"][1])
        assert slot.answer("b").cached == 0
        assert 'model_name="model-01"' in slot.metrics
        assert 'model_name="first"' not in slot.metrics


def test_ends_of_text_and_sampling_defaults_are_the_new_models(
    zygote: ZygoteProcess, models: dict[str, list[Path]], tmp_path: Path
) -> None:
    a, b, _ = models["bf16-untied"]
    other = Path(shutil.copytree(b, tmp_path / "other"))
    with Slot(zygote, a, tmp_path / "slot", eager=True) as slot:
        assert slot.booted.info.eos_token_ids == [0, 2]
        slot.swap(b)
        free = slot.answer().tokens
        defaults = {"eos_token_id": [2, free[3]], "do_sample": True, "temperature": 0.0, "max_new_tokens": 9}
        (other / "generation_config.json").write_text(json.dumps(defaults))
        swapped = slot.host.swap(other)
        assert swapped.info.eos_token_ids == sorted({2, free[3]})
        deltas = slot.ask()
        tokens = [token for delta in deltas for token in delta.token_ids]
        assert tokens == free[: free.index(free[3]) + 1]
        assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", free[3])
        deltas = slot.ask(ignore_eos=True)
        assert sum(len(delta.token_ids) for delta in deltas) == 9
        slot.swap(a)
        assert slot.host.booted is not None
        assert sum(len(delta.token_ids) for delta in slot.ask(max_tokens=12, ignore_eos=True)) == 12


def test_what_does_not_fit_is_refused_and_the_old_model_goes_on(
    zygote: ZygoteProcess, models: dict[str, list[Path]], tmp_path: Path
) -> None:
    a, b, _ = models["bf16-untied"]
    truncated = Path(shutil.copytree(b, tmp_path / "truncated"))
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2])
    no_defaults = Path(shutil.copytree(b, tmp_path / "no-defaults"))
    (no_defaults / "tokenizer_config.json").write_text("{")
    odd_ids = Path(shutil.copytree(b, tmp_path / "odd-ids"))
    (odd_ids / "generation_config.json").write_text(json.dumps({"eos_token_id": ["x"]}))
    deep = Path(shutil.copytree(b, tmp_path / "deep"))
    (deep / "tokenizer_config.json").write_text("[" * 100_000)
    with Slot(zygote, a, tmp_path / "slot", eager=True) as slot:
        before = slot.answer()
        for model, words in (
            (models["bf16"][0], "architecture"), (tmp_path / "nowhere", "no model directory"),
            (truncated, "header and tensors take"), (no_defaults, "cannot be served"),
            (odd_ids, "cannot be served"), (deep, "cannot be served"),
        ):  # fmt: skip
            slot.host.send(Swap(7, str(model), "x"))
            refused = slot.host.until(SwapRefused)
            assert words in refused.reason
        after = slot.answer()
        assert (after.tokens, after.logprobs) == (before.tokens, before.logprobs)


def test_weights_that_give_no_numbers_end_the_host(
    zygote: ZygoteProcess, models: dict[str, list[Path]], tmp_path: Path
) -> None:
    a, b, _ = models["bf16-untied"]
    broken = Path(shutil.copytree(b, tmp_path / "broken"))
    data = bytearray((broken / "model.safetensors").read_bytes())
    start = 8 + struct.unpack_from("<Q", data)[0]
    data[start:] = b"\xc0\x7f" * ((len(data) - start) // 2)  # NaN in bf16
    (broken / "model.safetensors").write_bytes(data)
    with Slot(zygote, a, tmp_path / "slot", eager=True) as slot:
        slot.host.send(Swap(1, str(broken), "x"))
        assert "not finite" in slot.host.until(SwapFailed).reason
        exited = zygote.frames.until(HostExited)
        assert (exited.pid, exited.code) == (slot.host.pid, 1)
        slot.host.sock.close()


def test_a_constraint_is_the_served_models(
    zygote: ZygoteProcess, models: dict[str, list[Path]], tmp_path: Path
) -> None:
    """Written in the tokens of the model that is served; fine-tunes with one tokenizer share what is held for it."""
    first, second, third = models["awq"]
    other = tmp_path / "other-tokens"
    shutil.copytree(third, other)
    described = json.loads((other / "tokenizer.json").read_text())
    vocabulary = described["model"]["vocab"]
    vocabulary["b"], vocabulary["c"] = vocabulary["c"], vocabulary["b"]
    (other / "tokenizer.json").write_text(json.dumps(described))
    with Slot(zygote, first, tmp_path / "constrained", eager=True) as slot:

        def texts(model: Path) -> list[str]:
            tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
            outputs = (StructuredOutputs(regex="[bc]{5}"), StructuredOutputs(choice=["bcb", "cbc"]))
            return [tokenizer.decode(slot.ask_ids(structured_outputs=asked, max_tokens=16)) for asked in outputs]

        def helpers() -> str:
            return "".join(path.read_text() for path in Path(f"/proc/{slot.host.pid}/task").glob("*/children"))

        assert not helpers(), "an engine nobody asks for a constraint has no process of its own"
        held: list[str] = []
        for model in (first, second, other, first):
            if held:
                slot.swap(model)
            regex, choice = texts(model)
            assert re.fullmatch("[bc]{5}", regex)
            assert choice in ("bcb", "cbc")
            held.append(helpers())
        assert held[0] == held[1] != held[2]
