"""`pilotlight prove` and `pilotlight proofs`: which swaps are proven here, asked of a running platform's warm pool.

Parses arguments and prints, no more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pilotlight_local.cli.commands import Surroundings, chosen_state_dir, cli, state_dir_option
from pilotlight_local.cli.control_client import ControlClient
from pilotlight_local.errors import PlatformError

_LEAST_MODELS = 2


@cli.command()
@click.argument("models", nargs=-1, metavar="[MODEL MODEL]")
@click.option("--all", "every", is_flag=True, help="Whatever was asked for since the start and is not proven yet.")
@click.option("--engine-arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Of vLLM; repeat it.")
@click.option("--quantization", default="auto", show_default=True, help="As of an endpoint.")
@click.option("--wait-s", type=float, default=60.0, show_default=True, help="For a slot that is idle.")
@state_dir_option
@click.pass_obj
def prove(
    surroundings: Surroundings,
    models: tuple[str, ...],
    every: bool,
    arguments: tuple[str, ...],
    quantization: str,
    wait_s: float,
    state_dir: Path | None,
) -> None:
    """Prove that engines of two models (URIs) may exchange their weights: boot both, swap both ways, compare."""
    if every == bool(models) or (models and len(models) != _LEAST_MODELS):
        raise click.UsageError("Name two models or say --all.")
    client = ControlClient(chosen_state_dir(surroundings, state_dir))
    asked = [{"models": models, "engine_args": _pairs(arguments), "quantization": quantization, "wait_s": wait_s}]
    if every:
        asked = [
            {"models": line["models"][:2], "engine_args": line["engine_args"], "quantization": line["quantization"],
             "wait_s": wait_s}
            for line in client.proofs()["unproven"] if len(line["models"]) >= _LEAST_MODELS
        ]  # fmt: skip
        if not asked:
            click.echo("no two models of one architecture were asked for whose swaps are not proven yet")
    refuted = False
    for body in asked:
        proof = client.prove(body)
        click.echo(_told(proof))
        refuted |= proof["verdict"] != "proven"
    if refuted:
        raise click.exceptions.Exit(1)


@cli.command()
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@state_dir_option
@click.pass_obj
def proofs(surroundings: Surroundings, output: str, state_dir: Path | None) -> None:
    """Show which swaps are proven here, which were refuted and why, and what is booted as nobody knows yet."""
    answer = ControlClient(chosen_state_dir(surroundings, state_dir)).proofs()
    if output == "json":
        click.echo(json.dumps(answer, indent=2))
        return
    for proof in answer["proofs"]:
        click.echo(_told(proof))
    for line in answer["unproven"]:
        all_the_same = ", swapped all the same" * line["swapped"]
        click.echo(f"unproven  {line['name']}{all_the_same}: {', '.join(line['models'])}")


def _told(proof: dict[str, Any]) -> str:
    evidence = proof["evidence"]
    seconds = sum(evidence["times_s"].values())
    shown = f"{evidence['tensors']} tensors, {evidence['tokens']} tokens, {seconds:.1f} s, {evidence['made_at']}"
    reason = f"\n          {proof['reason']}" if proof["reason"] else ""
    return f"{proof['verdict']:<9} {proof['name']} ({shown}){reason}"


def _pairs(arguments: tuple[str, ...]) -> dict[str, str]:
    pairs = [argument.partition("=") for argument in arguments]
    if any(not (name and equals) for name, equals, _ in pairs):
        raise PlatformError("Write --engine-arg name=value.")
    return {name: value for name, _, value in pairs}
