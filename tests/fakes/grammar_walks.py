"""Constraints made ready as an engine host does, and walks over what their masks allow, without an engine."""

from __future__ import annotations

import random
import threading
import warnings
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.structured_outputs import StructuredOutputs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's and vLLM's own
    from pilotlight_engine.vllm_adapter.constraint_preparation import (
        Compiled,
        ConstraintPreparation,
        ServedTokenizer,
    )
    from pilotlight_engine.vllm_adapter.mask_budget import MaskBudget
    from pilotlight_engine.vllm_adapter.output_grammar import OutputGrammar

EOS = 2
WORD_BITS = 32
__all__ = ["EOS", "Compiled", "MaskBudget", "OutputGrammar", "Prepared", "Walk"]


class Prepared:
    """A preparation asked one constraint at a time."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self.preparation = ConstraintPreparation("auto", self._ready.set)
        self._tickets = 0

    def serve(self, folder: Path, vocab_size: int) -> None:
        self.preparation.serve(ServedTokenizer(folder, vocab_size, (EOS,)))

    def compiled(self, asked: StructuredOutputs) -> Compiled:
        self._tickets += 1
        self._ready.clear()
        self.preparation.begin(self._tickets, asked)
        assert self._ready.wait(60.0)
        ((ticket, result),) = self.preparation.take()
        assert ticket == self._tickets
        if isinstance(result, PilotlightError):
            raise result
        return result


class Walk:
    """Picks tokens that the grammar allows, the shorter ones more often, until an end is allowed and taken."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        names = [tokenizer.id_to_token(number) or "" for number in range(vocab_size)]
        self._lengths = np.array([len(name) for name in names])
        self._blank = np.array([not name.strip("ĠĊčĉ\t") for name in names])
        self._mask = torch.zeros((1, (vocab_size + WORD_BITS - 1) // WORD_BITS), dtype=torch.int32)

    def text(self, compiled: Compiled, dice: random.Random, most: int = 400) -> str | None:
        words = self._mask.shape[1]
        grammar = OutputGrammar(compiled.matcher([EOS]), [EOS], [], must_end=False, words=words)
        tokens: list[int] = []
        for _ in range(most):
            grammar.fill_bitmask(self._mask, 0)
            bits = np.unpackbits(self._mask.numpy().view(np.uint8)[0], bitorder="little")[: self._vocab_size] == 1
            assert bits.any(), "no token may come next"
            if bits[EOS] and (bits.sum() == 1 or dice.random() < 0.6):
                assert grammar.accept_tokens("r", [EOS])
                assert grammar.is_terminated()
                return str(self._tokenizer.decode(tokens))
            bits[EOS] = False
            allowed = np.flatnonzero(bits & ~self._blank)
            allowed = allowed if len(allowed) else np.flatnonzero(bits)
            some = [int(allowed[dice.randrange(len(allowed))]) for _ in range(6)]
            token = some[0] if dice.random() < 0.2 else min(some, key=lambda number: int(self._lengths[number]))
            assert grammar.accept_tokens("r", [token])
            tokens.append(token)
        return None
