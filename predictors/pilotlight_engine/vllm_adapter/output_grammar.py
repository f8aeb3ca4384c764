"""One choice's constraint while it is generated: what vLLM's scheduler asks for masks. Adapter to vLLM.

Over a matcher of xgrammar or llguidance, both with the same rules: a stop token ends the output where it is complete
and is allowed nowhere else; masks that cost too much end their own request; a matcher that went wrong never lets an
output through. It must not know requests, tokenizers or how a constraint was compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

import torch
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

from pilotlight_engine.vllm_adapter.mask_budget import MaskBudget

_STUCK = "no token that may be generated continues it"


class Matcher(Protocol):
    """A matcher over one compiled grammar. `complete`: what was accepted is a whole output. `masked_ids`: the stop
    tokens that its own masks allow where the output is complete, and nowhere else."""

    masked_ids: frozenset[int]

    def fill(self, mask: torch.Tensor, row: int) -> None: ...
    def accept(self, token: int) -> bool: ...
    def accepted_prefix(self, tokens: list[int]) -> int: ...
    def rollback(self, tokens: int) -> None: ...
    def complete(self) -> bool: ...
    def error(self) -> str: ...


class XgrammarMatcher:
    def __init__(self, matcher: Any, masked_ids: Collection[int]) -> None:
        self._matcher = matcher
        self.masked_ids = frozenset(masked_ids)

    def fill(self, mask: torch.Tensor, row: int) -> None:
        self._matcher.fill_next_token_bitmask(mask, row)

    def accept(self, token: int) -> bool:
        return bool(self._matcher.accept_token(token))

    def accepted_prefix(self, tokens: list[int]) -> int:
        count = 0
        while count < len(tokens) and self._matcher.accept_token(tokens[count]):
            count += 1
        if count:
            self._matcher.rollback(count)
        return count

    def rollback(self, tokens: int) -> None:
        self._matcher.rollback(tokens)

    def complete(self) -> bool:
        return bool(self._matcher.is_completed())

    def error(self) -> str:
        return ""


class GuidanceMatcher:
    def __init__(self, matcher: Any, masked_ids: Collection[int]) -> None:
        self._matcher = matcher
        self.masked_ids = frozenset(masked_ids)

    def fill(self, mask: torch.Tensor, row: int) -> None:
        line = mask[row]
        self._matcher.unsafe_compute_mask_ptr(line.data_ptr(), line.numel() * line.element_size())

    def accept(self, token: int) -> bool:
        return bool(self._matcher.consume_token(token))

    def accepted_prefix(self, tokens: list[int]) -> int:
        return int(self._matcher.validate_tokens(tokens))

    def rollback(self, tokens: int) -> None:
        self._matcher.rollback(tokens)

    def complete(self) -> bool:
        return bool(self._matcher.is_accepting())

    def error(self) -> str:
        return str(self._matcher.get_error())


class OutputGrammar(StructuredOutputGrammar):  # type: ignore[misc]  # vLLM is untyped here
    """`stop_ids`: what ends the output. `ignored_ids`: those of them that end nothing while it can go on (ignore_eos).

    `must_end`: whether min_tokens or `ignored_ids` may forbid the only token that is left; the output is then `ended`.
    `on_expensive` is told why the output was given up.
    """

    def __init__(
        self,
        matcher: Matcher,
        stop_ids: Collection[int],
        ignored_ids: Collection[int],
        *,
        must_end: bool,
        words: int,
        budget: MaskBudget | None = None,
        on_expensive: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.failure = ""
        self._budget = budget or MaskBudget()
        self._on_expensive = on_expensive
        self.ended = False
        self._matcher = matcher
        self.stop_ids = frozenset(stop_ids)
        self._ignored_ids = frozenset(ignored_ids)
        self._corrected_ids = (self.stop_ids - matcher.masked_ids) | self._ignored_ids
        self._must_end = must_end or not self.stop_ids
        self._terminated = False
        self._scratch = torch.zeros((1, words), dtype=torch.int32) if self._must_end else None
        self._look_for_end()

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        for token in tokens:
            if self._terminated:
                return True
            if self.failure or self.ended:
                return False
            if token in self.stop_ids:
                self._terminated = self._matcher.complete()
                self.failure = "" if self._terminated else _STUCK
                return self._terminated
            self._budget.begin()
            accepted = self._matcher.accept(token)
            self._count()
            if not accepted:
                self.failure = self._matcher.error() or _STUCK
                return False
            self._look_for_end()
        return True

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        if self._terminated or self.ended:
            return []
        drafts = tokens
        for number, token in enumerate(tokens):
            if token in self.stop_ids:
                drafts = tokens[:number]
                break
        return drafts[: self._matcher.accepted_prefix(drafts)]

    def rollback(self, num_tokens: int) -> None:
        self._matcher.rollback(num_tokens)
        self._terminated = self.ended = False

    def fill_bitmask(self, bitmask: torch.Tensor, batch_index: int) -> None:
        self._budget.begin()
        self._matcher.fill(bitmask, batch_index)
        self._count()
        if self._corrected_ids:
            complete = self._matcher.complete()
            for token in self._corrected_ids:
                allow(bitmask[batch_index], token, complete and (self.ended or token not in self._ignored_ids))

    def is_terminated(self) -> bool:
        return self._terminated

    def reset(self) -> None:
        raise NotImplementedError("a grammar belongs to one choice and is never used again")

    def _count(self) -> None:
        if why := self._budget.end():
            self.failure = why
            self._on_expensive(why)

    def _look_for_end(self) -> None:
        """Whether nothing but a stop token can follow."""
        if self._scratch is None or not self._matcher.complete():
            return
        self._matcher.fill(self._scratch, 0)
        for token in self.stop_ids:
            allow(self._scratch[0], token, False)
        self.ended = not bool(self._scratch.any())


def allow(mask: torch.Tensor, token: int, allowed: bool) -> None:
    """Set the bit of `token` in `mask`: int32[words], 32 tokens a word, the lowest bit first."""
    word, bit = divmod(token, 32)
    if word < len(mask):
        value = int(mask[word]) & 0xFFFFFFFF
        value = value | (1 << bit) if allowed else value & ~(1 << bit)
        mask[word] = value - (1 << 32) if value >= 1 << 31 else value
