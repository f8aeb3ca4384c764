"""vLLM's structured-output machinery with our way in: grammars arrive compiled. Adapter to vLLM.

vLLM's manager compiles with a tokenizer that it loads at boot and keeps; ours is given, with each request that enters,
a grammar that was compiled elsewhere, and keeps no tokenizer, so that a swap leaves nothing behind. Masks, acceptance
of tokens and speculative tokens are vLLM's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from vllm.v1.structured_output import StructuredOutputManager

from pilotlight_engine.vllm_adapter.output_grammar import OutputGrammar

MakeGrammar = Callable[[Any], OutputGrammar]
"""From vLLM's SamplingParams of a choice to its grammar."""


class OutputGrammars(StructuredOutputManager):  # type: ignore[misc]  # vLLM is untyped here
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.words = (int(config.model_config.get_vocab_size()) + 31) // 32
        self._mask: torch.Tensor | None = None
        self._make: MakeGrammar | None = None
        self._made: list[OutputGrammar] = []

    @classmethod
    def installed(cls, core: Any) -> OutputGrammars:
        """In the engine core's place for it."""
        grammars = cls(core.vllm_config)
        core.structured_output_manager = core.scheduler.structured_output_manager = grammars
        return grammars

    @contextlib.contextmanager
    def entering(self, make: MakeGrammar) -> Iterator[list[OutputGrammar]]:
        """The request that enters the engine meanwhile is constrained by what `make` makes, one for each choice."""
        if self._mask is None:
            scheduler, drafts = self.vllm_config.scheduler_config, self.vllm_config.num_speculative_tokens
            self._mask = self._grammar_bitmask = torch.full(
                (scheduler.max_num_seqs * (1 + drafts), self.words), -1, dtype=torch.int32
            )
        self._make, self._made = make, []
        try:
            yield self._made
        finally:
            self._make = None

    def grammar_init(self, request: Any) -> None:
        if request.structured_output_request is None:
            return
        assert self._make is not None
        grammar = self._make(request.sampling_params)
        self._made.append(grammar)
        request.structured_output_request.grammar = grammar
