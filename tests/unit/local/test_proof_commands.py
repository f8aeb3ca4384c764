"""What a person is told of proofs: the verdict and its reason, in `pilotlight proofs` and below `status`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from pilotlight_local.cli import proof_commands
from pilotlight_local.cli.commands import Surroundings, cli
from pilotlight_local.embedded.display import slots_table

EVIDENCE = {"tensors": 349, "tokens": 48, "times_s": {"boot A": 1.5, "swap to B": 0.5}, "made_at": "2026-11-28"}
PROVEN = {"name": "Llama, awq", "verdict": "proven", "reason": "", "evidence": EVIDENCE}
REFUTED = {"name": "Llama, fp8", "verdict": "refuted", "reason": "norm.weight has other values", "evidence": EVIDENCE}
UNPROVEN = {"name": "Llama, gptq", "models": ["hf://a/b", "hf://a/c"], "engine_args": {"dtype": "half"},
            "quantization": "gptq", "swapped": False}  # fmt: skip
SWAPPED = UNPROVEN | {"name": "Llama, bf16", "swapped": True}


class Platform:
    """In the place of `ControlClient`."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []

    def proofs(self) -> dict[str, Any]:
        return {"proofs": [PROVEN, REFUTED], "unproven": [UNPROVEN, SWAPPED]}

    def prove(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        return self.answers


def run(monkeypatch: pytest.MonkeyPatch, *argv: str, answers: dict[str, Any] = PROVEN) -> tuple[Result, Platform]:
    platform = Platform(answers)
    monkeypatch.setattr(proof_commands, "ControlClient", lambda state_dir: platform)
    surroundings = Surroundings(Path("/nowhere"), "", "python", Path("/nowhere"), {}, 0.0)
    return CliRunner().invoke(cli, list(argv), obj=surroundings), platform


def test_every_proof_is_a_line_and_why_it_was_refuted_another(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _ = run(monkeypatch, "proofs")
    assert result.output.splitlines() == [
        "proven    Llama, awq (349 tensors, 48 tokens, 2.0 s, 2026-11-28)",
        "refuted   Llama, fp8 (349 tensors, 48 tokens, 2.0 s, 2026-11-28)",
        "          norm.weight has other values",
        "unproven  Llama, gptq: hf://a/b, hf://a/c",
        "unproven  Llama, bf16, swapped all the same: hf://a/b, hf://a/c",
    ]
    result, platform = run(monkeypatch, "proofs", "--output", "json")
    assert json.loads(result.output) == platform.proofs()


def test_two_models_are_proven_or_all_that_are_not_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    result, platform = run(monkeypatch, "prove", "hf://a/b", "hf://a/c", "--engine-arg", "dtype=half", "--wait-s", "5")
    assert (result.exit_code, result.output[:7]) == (0, "proven ")
    assert platform.asked == [
        {"models": ("hf://a/b", "hf://a/c"), "engine_args": {"dtype": "half"}, "quantization": "auto", "wait_s": 5.0}
    ]
    result, platform = run(monkeypatch, "prove", "--all", answers=REFUTED)
    assert result.exit_code == 1
    assert (
        platform.asked[1:]
        == platform.asked[:1]
        == [{"models": UNPROVEN["models"], "engine_args": {"dtype": "half"}, "quantization": "gptq", "wait_s": 60.0}]
    )


@pytest.mark.parametrize("argv", [(), ("a",), ("a", "b", "c"), ("a", "b", "--all")])
def test_what_to_prove_is_said_one_way(monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]) -> None:
    result, platform = run(monkeypatch, "prove", *argv)
    assert (result.exit_code, platform.asked) == (2, [])


def test_status_says_what_is_booted_and_why() -> None:
    console = Console(width=120, record=True, file=None)
    with console.capture() as captured:
        console.print(slots_table({"state": "ready", "slots": [], "leases": [], "proofs": [PROVEN, REFUTED],
                                   "unproven": [UNPROVEN, SWAPPED]}))  # fmt: skip
    text = " ".join(captured.get().split())
    assert "swaps of Llama, fp8 are refuted, it is booted: norm.weight has other values" in text
    assert "swaps of Llama, gptq are not proven yet" in text
    assert "awq" not in text
    assert "bf16" not in text
