"""What booted and swapped engines of one kind have said: whether a swap is to be believed, and whether to try another.

By kind of engine, since the arguments decide as well as the weights. Bounded: what was heard longest ago is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TypeVar

import msgspec

from pilotlight_pool.agent_port import SwapFailed
from pilotlight_pool.engine_orders import ModelFacts
from pilotlight_protocol.engine_frames import SwapCheck
from pilotlight_protocol.swap_proofs import Combination, Verdict

MOST_KINDS = 1024
UNSWAPPABLE_S = 600.0
# Logprobs of one prompt differ in the last bits between a boot and a swap at most; another model's differ by far more.
TOLERANCE = 0.02
# Believed without a proof: tests/integration/test_engine_swap.py compares them on whatever machine it runs.
_TESTED = frozenset({("none", "cpu"), ("awq", "cpu")})
_Kind = tuple[str, str]
_Value = TypeVar("_Value")


class SwapChecks:
    """`verdict`: of a combination's proof, None without one."""

    def __init__(self, clock: Callable[[], float], verdict: Callable[[Combination | None], Verdict | None]) -> None:
        self._clock = clock
        self._verdict = verdict
        self._booted: dict[_Kind, SwapCheck] = {}
        self._failed_until_s: dict[_Kind, float] = {}

    def booted(self, kind: _Kind, found: SwapCheck) -> None:
        """What a freshly booted engine says first."""
        _keep(self._booted, kind, found)

    def compare(self, kind: _Kind, found: SwapCheck) -> None:
        """A swapped engine must say what a booted one said, where that is known. Raises SwapFailed."""
        expected = self._booted.get(kind)
        if expected is None:
            return
        if expected.token_id != found.token_id or abs(expected.logprob - found.logprob) > TOLERANCE:
            raise SwapFailed(f"its first token is {found}, a freshly booted engine's was {expected}")

    def failed(self, kind: _Kind) -> None:
        """Boot it for a while: what failed once would fail again, and every try costs an engine."""
        _keep(self._failed_until_s, kind, self._clock() + UNSWAPPABLE_S)

    def as_proven(self, facts: ModelFacts) -> ModelFacts:
        """The same, but not swappable where that is not proven, or while a swap to it has failed lately."""
        verdict = self._verdict(facts.combination)
        if facts.swappable and verdict != "proven" and not (verdict != "refuted" and _is_tested(facts)):
            return msgspec.structs.replace(facts, swappable=False)
        if self._clock() < self._failed_until_s.get(facts.kind, 0.0):
            return msgspec.structs.replace(facts, swappable=False)
        return facts


def _is_tested(facts: ModelFacts) -> bool:
    return facts.combination is not None and (facts.quantization, facts.combination.device) in _TESTED


def _keep(known: MutableMapping[_Kind, _Value], kind: _Kind, value: _Value) -> None:
    known.pop(kind, None)
    known[kind] = value
    if len(known) > MOST_KINDS:
        del known[next(iter(known))]
