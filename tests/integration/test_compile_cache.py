"""The compile cache in real vLLM on the CPU: one fine-tune compiles, the others load, and none answers for another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pool_agent import Host, ZygoteProcess, exec_host, private_dir

from pilotlight_engine.client import pool_client
from pilotlight_models import bundled_model_path
from pilotlight_models.checkpoint import read_checkpoint
from pilotlight_protocol.engine_frames import GenerateRequest, HostConfig, HostExited, Shutdown
from pilotlight_protocol.generation import GenerationParameters

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_models.py"
KEYS = Path(__file__).parents[1] / "fakes" / "compile_keys.py"
SECRET = "0" * 64
BOOT_DEADLINE_S = 300.0
# vLLM's own words for the two ways to a graph.
COMPILED, LOADED = "saved AOT compiled function", "Directly load AOT compilation"
SLICE_BYTES = 64


@dataclass(frozen=True)
class Answer:
    tokens: list[int]
    logprobs: list[float]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The bundled bf16 model, and a fine-tune of it with other tools' names and another end of text in its config."""
    root = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, str(SCRIPT), "--out", str(root), "--from-demo", "--count", "1"], check=True)
    (tune,) = root.iterdir()
    config = json.loads((tune / "config.json").read_text())
    config |= {"_name_or_path": "someone/else", "transformers_version": "4.44.0", "eos_token_id": 5}
    (tune / "config.json").write_text(json.dumps(config))
    return bundled_model_path("demo-bf16"), tune


class Machine:
    """A work directory and a zygote over it, as one machine's pool has them."""

    def __init__(self, root: Path) -> None:
        self.work_dir = private_dir(root / "w")
        self.log = self.work_dir / "hosts.log"
        self._run_dir = private_dir(root / "run")
        self._boots = 0

    @contextlib.contextmanager
    def zygote(self) -> Iterator[ZygoteProcess]:
        with ZygoteProcess(self.work_dir, self.log) as zygote:
            zygote.wait_ready()
            yield zygote

    def config(self, model: Path) -> HostConfig:
        self._boots += 1
        listen = f"unix://{self._run_dir}/{self._boots}.sock"
        return HostConfig(
            slot=f"slot-{self._boots}", listen=listen, model_dir=str(model), model_name="m",
            engine_args={"max_num_seqs": "8"}, cpus=2,
        )  # fmt: skip

    def forked(self, zygote: ZygoteProcess, model: Path) -> Answer:
        host = zygote.fork(self.config(model))
        answer = answer_of(host)
        host.send(Shutdown())
        zygote.frames.until(HostExited, deadline_s=30.0)
        return answer

    def compiled_files(self) -> dict[str, tuple[int, bytes]]:
        """Name to time and content of everything below the compile cache but its locks."""
        files = [path for path in (self.work_dir / "cache").glob("compiled-*/**/*") if path.is_file()]
        return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in files if p.suffix != ".lock"}

    def said(self, words: str) -> int:
        return self.log.read_text(errors="replace").count(words)


def answer_of(host: Host) -> Answer:
    booted = host.wait_booted(BOOT_DEADLINE_S)
    host.grant("lease", SECRET, "tenant")

    async def collect() -> Answer:
        engine = await pool_client.connect(booted.endpoint, "lease", SECRET)
        parameters = GenerationParameters(temperature=0.0, max_tokens=24, ignore_eos=True, logprobs=1)
        deltas = [
            delta
            async for some in engine.generate(GenerateRequest("r", list(range(40, 104)), parameters))
            for delta in some
        ]
        await engine.close()
        entries = [entry for delta in deltas for entry in delta.logprobs or []]
        return Answer([t for delta in deltas for t in delta.token_ids], [entry.logprob for entry in entries])

    return asyncio.run(collect())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, models: tuple[Path, Path]) -> Machine:
    """One on which the first model has been compiled already; its zygote has ended."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    with machine.zygote() as zygote:
        machine.forked(zygote, models[0])
    assert (machine.said(COMPILED), machine.said(LOADED)) == (1, 0)
    return machine


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory, models: tuple[Path, Path]) -> Answer:
    """What the fine-tune says on a machine that has compiled for nothing else."""
    alone = Machine(tmp_path_factory.mktemp("alone"))
    with alone.zygote() as zygote:
        answer = alone.forked(zygote, models[1])
    assert (alone.said(COMPILED), alone.said(LOADED)) == (1, 0)
    return answer


def test_another_fine_tune_compiles_nothing_and_answers_as_itself(
    machine: Machine, models: tuple[Path, Path], oracle: Answer
) -> None:
    before, loaded = machine.compiled_files(), machine.said(LOADED)
    with machine.zygote() as zygote:
        assert machine.forked(zygote, models[1]) == oracle
        first = machine.forked(zygote, models[0])
        assert first.tokens != oracle.tokens, "the models must differ to prove anything"
        assert machine.forked(zygote, models[1]) == oracle
    assert (machine.said(COMPILED), machine.said(LOADED) - loaded) == (1, 3)
    assert machine.compiled_files() == before


def test_so_does_a_host_without_a_zygote(machine: Machine, models: tuple[Path, Path], oracle: Answer) -> None:
    before, loaded = machine.compiled_files(), machine.said(LOADED)
    process, host = exec_host(machine.config(models[1]), machine.work_dir, machine.log)
    assert answer_of(host) == oracle
    host.send(Shutdown())
    process.wait(30.0)
    host.sock.close()
    assert (machine.said(COMPILED), machine.said(LOADED) - loaded) == (1, 1)
    assert machine.compiled_files() == before


def test_nothing_of_a_model_is_in_the_cache(machine: Machine, models: tuple[Path, Path]) -> None:
    content = b"".join(data for _, data in machine.compiled_files().values())
    assert len(content) > 100_000
    looked_for = 0
    for place in read_checkpoint(models[0]).places.values():
        with place.file.open("rb") as file:
            file.seek(place.start)
            data = file.read(place.length)
        for start in range(0, len(data), max(SLICE_BYTES, len(data) // 16)):
            piece = data[start : start + SLICE_BYTES]
            # Norms are all ones and biases zero in places; such bytes say nothing about a model.
            if len(set(piece)) > SLICE_BYTES // 4:
                looked_for += 1
                assert piece not in content, place.entry.name
    assert looked_for > 100
    assert str(models[0]).encode() not in content


def test_every_difference_that_matters_has_its_own_key(models: tuple[Path, Path], tmp_path: Path) -> None:
    """Asked of vLLM's own configuration, with nothing booted."""
    other = tmp_path / "longer"
    shutil.copytree(models[0], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    asked: list[dict[str, object]] = [
        {"model": str(models[0])},
        {"model": str(models[1])},
        {"model": str(other)},
        {"model": str(models[0]), "threads": 1},
        {"model": str(models[0]), "dtype": "float32"},
        {"model": str(models[0]), "max_model_len": "512"},
        {"model": str(models[0]), "max_num_seqs": "2"},
        {"model": str(models[0]), "max_num_batched_tokens": "256"},
        {"model": str(bundled_model_path("demo-awq"))},
    ]
    done = subprocess.run(
        [sys.executable, str(KEYS), json.dumps(asked)], check=True, stdout=subprocess.PIPE, timeout=240
    )
    keys = json.loads(done.stdout.splitlines()[-1])
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(asked) - 1
