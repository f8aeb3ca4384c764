"""Tokenizers that make terabytes of a few letters are refused; those of known models are not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.text_model import library_codec
from pilotlight_text.tokenization.text_growth import MOST, growth
from pilotlight_text.tokenization.tokenizer_check import TokenizerRefused, check


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def charmap(*texts: bytes) -> dict[str, Any]:
    trie = b"\1\2\3\4" * 4
    data = len(trie).to_bytes(4, "little") + trie + b"\0".join(texts) + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


KNOWN = {
    "none": None,
    "Llama 2": sequence({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
    "Gemma": replace(" ", "▁"),
    "CLIP": sequence({"type": "NFC"}, replace("\\s+", " ", "Regex"), {"type": "Lowercase"}),
    "ALBERT": sequence(
        replace("``", '"'), replace("''", '"'), {"type": "NFKD"}, {"type": "Lowercase"}, charmap(b"x" * 33, b"a")
    ),
    "T5": sequence(charmap(b"x" * 33), replace(" {2,}", "▁", "Regex")),
    "Llama's decoder": {"type": "Sequence", "decoders": [replace("▁", " "), {"type": "ByteFallback"}]},
}
BOMBS = {
    "replacements": sequence(*[replace("a", "a" * 100)] * 8),
    "one of them": replace("i", "i" * 4000),
    "doublings": sequence(*[replace("a", "aa")] * 30),
    "nothing becomes something": sequence(*[replace("x*", "a", "Regex")] * 30),
    "an empty pattern": replace("", "a" * 500),
    "prepended": {"type": "Prepend", "prepend": "a" * 500},
    "nested": sequence(sequence(replace("a", "a" * 20)), sequence(replace("a", "a" * 20))),
    "a charmap": charmap(b"x" * 5000),
    "decoders": {"type": "Sequence", "decoders": [replace("a", "a" * 1000)]},
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_known_models_do(name: str) -> None:
    assert growth(KNOWN[name]) <= MOST / 8


@pytest.mark.parametrize("name", BOMBS)
def test_a_tokenizer_that_expands_is_refused_before_it_is_loaded(name: str) -> None:
    step = "decoder" if name == "decoders" else "normalizer"
    with pytest.raises(TokenizerRefused, match=f"its {step} may make a text .* times as long"):
        check(json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, step: BOMBS[name]}).encode())


async def test_a_tokenizer_that_panics_is_told_as_the_models_fault() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    codec = library_codec(tokenizer, max_model_len=2048)
    try:
        assert await codec.encode("a", add_special_tokens=False) == [0]
        with pytest.raises(InvalidInput, match="tokenizer fails on this text"):
            await codec.encode("a" * 60 + "!", add_special_tokens=False)
    finally:
        codec.close()
