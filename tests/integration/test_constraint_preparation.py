"""Constraints made ready with real tokenizers, without an engine: a walk over what masks allow ends in valid JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import torch
from generated_schemas import schema as generated_schema
from grammar_walks import EOS, MaskBudget, OutputGrammar, Prepared, Walk
from tokenizers import Tokenizer

from pilotlight_models import bundled_model_path
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.structured_outputs import StructuredOutputs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER


@pytest.fixture(scope="module")
def prepared() -> Iterator[Prepared]:
    prepared = Prepared()
    yield prepared
    prepared.preparation.end()


def check_schemas(prepared: Prepared, folder: Path, vocab_size: int, seeds: range) -> None:
    prepared.serve(folder, vocab_size)
    walk = Walk(Tokenizer.from_file(str(folder / "tokenizer.json")), vocab_size)
    backends: set[str] = set()
    validated = refused = 0
    for seed in seeds:
        schema = generated_schema(seed)
        try:
            compiled = prepared.compiled(StructuredOutputs(json=schema))
        except InvalidInput:
            refused += 1
            continue
        backends.add(compiled.source.backend)
        validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
        for number in range(2):
            text = walk.text(compiled, random.Random(10 * seed + number))
            if text is not None:
                problems = [error.message for error in validator.iter_errors(json.loads(text))]
                assert not problems, (seed, compiled.source.backend, text)
                validated += 1
    assert backends == {"xgrammar", "guidance"}
    assert validated > len(seeds), (validated, refused)
    assert refused < len(seeds) / 8


def test_generated_schemas_with_the_demo_models_tokenizer(prepared: Prepared) -> None:
    check_schemas(prepared, bundled_model_path("demo-awq"), 2048, range(1000, 1080))


def test_generated_schemas_with_the_real_models_tokenizer(prepared: Prepared, real_model: Path) -> None:
    check_schemas(prepared, real_model, 49152, range(2000, 2060))


def test_a_text_has_no_special_tokens_and_a_structural_tag_may(prepared: Prepared) -> None:
    folder = bundled_model_path("demo-awq")
    prepared.serve(folder, 2048)
    special = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()["<|im_start|>"]
    mask = torch.zeros((1, 64), dtype=torch.int32)
    tag = {"type": "structural_tag", "format": {"type": "token", "token": "<|im_start|>"}}
    for outputs, allowed in (
        (StructuredOutputs(json={"type": "string"}), False),
        (StructuredOutputs(regex=".*"), False),
        (StructuredOutputs(structural_tag=json.dumps(tag)), True),
    ):
        grammar = OutputGrammar(prepared.compiled(outputs).matcher([EOS]), [EOS], [], must_end=False, words=64)
        grammar.fill_bitmask(mask, 0)
        assert bool(int(mask[0, special // 32]) >> (special % 32) & 1) == allowed


class _Slow:
    """A matcher whose masks take a time that the test says."""

    masked_ids = frozenset({EOS})

    def __init__(self) -> None:
        self.now_s = 0.0

    def fill(self, mask: torch.Tensor, row: int) -> None:
        self.now_s += 0.3

    def accept(self, token: int) -> bool:
        return True

    def accepted_prefix(self, tokens: list[int]) -> int:
        return len(tokens)

    def rollback(self, tokens: int) -> None:
        return

    def complete(self) -> bool:
        return False

    def error(self) -> str:
        return ""


def test_masks_that_take_too_long_together_end_their_output_and_their_constraint(prepared: Prepared) -> None:
    prepared.serve(bundled_model_path("demo-awq"), 2048)
    compiled = prepared.compiled(StructuredOutputs(grammar='root ::= root root | "a" | "ab" | "b"'))
    slow = _Slow()
    budget = MaskBudget(lambda: slow.now_s)
    mask = torch.zeros((1, 64), dtype=torch.int32)
    grammar = OutputGrammar(
        *(slow, [EOS], []), must_end=False, words=64, budget=budget, on_expensive=compiled.faults.append
    )
    for _ in range(10):
        grammar.fill_bitmask(mask, 0)
        assert grammar.accept_tokens("r", [5])
    for _ in range(10):
        grammar.fill_bitmask(mask, 0)
    assert not grammar.accept_tokens("r", [5])
    with pytest.raises(InvalidInput, match="take too long together"):
        compiled.matcher([EOS])


def test_a_tokenizer_that_is_none_is_refused_and_another_one_is_taken(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    asked = StructuredOutputs(regex="[0-9]{3}")
    for folder in (tmp_path, tmp_path / "nowhere"):
        prepared.serve(folder, 2048)
        assert prepared.preparation.ready(asked) is None
        with pytest.raises(InvalidInput, match="tokenizer"):
            prepared.compiled(asked)
    prepared.serve(bundled_model_path("demo-awq"), 2048)
    prepared.compiled(asked)
    assert prepared.preparation.ready(asked) is not None
