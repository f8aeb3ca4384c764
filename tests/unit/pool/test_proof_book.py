"""Proofs outlive the process, are for exactly one combination, and a file that is none is as if it were not there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pilotlight_engine.swap.loader_code import code_hash
from pilotlight_pool.agent import proof_book
from pilotlight_pool.agent.proof_book import ProofBook
from pilotlight_protocol.swap_proofs import Combination, SwapEvidence, SwapProof, Verdict

COMBINATION = Combination(
    vllm="1", torch="2", loader="3", architecture="Llama", quantization="awq", scheme="", dtype="float16", tied="true",
    device="cpu", capability="x", compiled=False, workers="1",
)  # fmt: skip
OTHER = msgspec.structs.replace(COMBINATION, loader="4")


def proof(verdict: Verdict = "proven", combination: Combination = COMBINATION) -> SwapProof:
    evidence = SwapEvidence(models=("a", "b"), booted=("1", "2"), swapped="2", back="1")
    return SwapProof(combination=combination, verdict=verdict, reason="", evidence=evidence)


def test_a_proof_is_there_after_a_restart_for_its_combination_alone(tmp_path: Path) -> None:
    book = ProofBook(tmp_path / "proofs", None)
    assert book.verdict(COMBINATION) is None
    book.add(proof())
    for known in (book, ProofBook(tmp_path / "proofs", None)):
        assert (known.verdict(COMBINATION), known.verdict(OTHER), known.verdict(None)) == ("proven", None, None)
    assert [path.suffix for path in (tmp_path / "proofs").iterdir()] == [".json"]


def test_what_was_found_here_is_believed_instead_of_what_came_along(tmp_path: Path) -> None:
    shipped = tmp_path / "shipped.json"
    shipped.write_bytes(msgspec.json.encode([proof(), proof("proven", OTHER)]))
    ProofBook(tmp_path / "proofs", shipped).add(proof("refuted"))
    again = ProofBook(tmp_path / "proofs", shipped)
    assert (again.verdict(COMBINATION), again.verdict(OTHER)) == ("refuted", "proven")


@pytest.mark.parametrize("verdict", ["proven", "refuted"])
def test_what_could_not_be_tried_again_is_as_known_as_it_was(tmp_path: Path, verdict: Verdict) -> None:
    book = ProofBook(tmp_path, None)
    book.add(proof("failed"))
    assert not list(tmp_path.iterdir())
    book.add(proof(verdict))
    book.add(proof("failed"))
    assert book.verdict(COMBINATION) == ProofBook(tmp_path, None).verdict(COMBINATION) == verdict


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", msgspec.json.encode(proof("proven", OTHER)).decode(), "9" * 99])
def test_a_file_that_is_no_proof_of_its_name_is_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / f"{COMBINATION.key}.json").write_text(text)
    book = ProofBook(tmp_path, None)
    assert not book.proofs
    assert "is no proof of a swap" in caplog.text
    book.add(proof())
    assert ProofBook(tmp_path, None).verdict(COMBINATION) == "proven"


def test_a_folder_that_takes_nothing_costs_the_file_and_not_the_proof(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "proofs").write_text("a file")
    book = ProofBook(tmp_path / "proofs", None)
    book.add(proof())
    assert book.verdict(COMBINATION) == "proven"
    assert "known to this process alone" in caplog.text


def test_what_comes_along_is_of_this_code_and_only_what_is_proven() -> None:
    """Else `make prove-swaps` has to make it again: the code that exchanges weights has changed."""
    for each in ProofBook(None, proof_book.SHIPPED).proofs.values():
        assert each.verdict == "proven"
        assert each.combination.loader == code_hash()
        assert each.evidence.swapped == each.evidence.booted[1] != each.evidence.booted[0] == each.evidence.back
