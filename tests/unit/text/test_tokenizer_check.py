"""Which tokenizer.json is loaded at once, and which only after a look at it elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pilotlight_models import bundled_model_path
from pilotlight_text.tokenization import tokenizer_check
from pilotlight_text.tokenization.tokenizer_check import MEMORY_BYTES, TokenizerRefused, check, memory_estimate


def written(**parts: Any) -> bytes:
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    return json.dumps({"added_tokens": [], "normalizer": None, "model": model} | parts).encode()


def vocabulary(size: int) -> dict[str, int]:
    return {f"t{number}": number for number in range(size)}


SAFE = {
    "the demo model's": (bundled_model_path("demo-awq") / "tokenizer.json").read_bytes(),
    "128,000 tokens and 280,000 merges": written(
        model={
            "type": "BPE",
            "vocab": vocabulary(128_000),
            "merges": [[f"t{number}", "t1"] for number in range(280_000)],
            "ignore_merges": True,
        }
    ),
}
DOUBTFUL = {
    "a long regular expression": written(normalizer={"type": "Replace", "pattern": {"Regex": "\\p{L}" * 200_000}}),
    "an Unigram vocabulary": written(model={"type": "Unigram", "vocab": [["x" * 3_000_000, 0.0]]}),
    "a model without a type": written(model={"vocab": [["x" * 3_000_000, 0.0]]}),
    "a name that stands twice": b'{"normalizer": "' + b"x" * 5000 + b'", "normalizer": null, "model": {}}',
    "a part that nobody knows": written(model={"type": "BPE", "x": "y" * 5000}),
}


@pytest.mark.parametrize("kind", SAFE)
def test_usual_tokenizers_are_loaded_at_once(kind: str) -> None:
    estimate = memory_estimate(SAFE[kind])
    assert estimate is not None
    assert estimate < MEMORY_BYTES


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_what_may_expand_is_looked_at_elsewhere_first(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere: list[str] = []

    def answer(task: str, data: bytes, limits: Any) -> bytes:
        elsewhere.append(task)
        return b"no"

    monkeypatch.setattr(tokenizer_check, "answer_of", answer)
    with pytest.raises(TokenizerRefused, match="no"):
        check(DOUBTFUL[kind])
    assert elsewhere == ["tokenizer"]


@pytest.mark.parametrize("data", [b"", b"[", b"[]", b"{}", b'{"model": 1}', b'{"model": ' + b"[" * 100_000, b"\xff"])
def test_what_is_no_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(TokenizerRefused):
        check(data)


def test_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_check, "MAX_BYTES", 10)
    with pytest.raises(TokenizerRefused, match="at most 10"):
        check(written())
