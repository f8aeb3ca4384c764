"""How long a model whose engines keep failing has to wait: it backs off, and not the slot that others want. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class BackOffSpec:
    """The second failure in a row costs `first_s`, each further one twice as much, up to `longest_s`. One that came
    `forgotten_s` after the last stands alone. `most`: models that are remembered."""

    first_s: float = 0.25
    longest_s: float = 30.0
    forgotten_s: float = 300.0
    most: int = 1024


@dataclass(frozen=True, slots=True)
class Failures:
    """`count` in a row, the last of them `at_s`; no engine for this model before `not_before_s`."""

    count: int
    at_s: float
    not_before_s: float


@dataclass(frozen=True, slots=True)
class BackOffState:
    models: Mapping[str, Failures] = field(default_factory=dict)


@dataclass
class SlotFailures:
    """Of one slot, in a row. One model that fails backs off alone; where several do, it is the slot that waits."""

    spec: BackOffSpec
    count: int = 0
    not_before_s: float = 0.0
    _models: set[str] = field(default_factory=set)

    def failed(self, model: str, now_s: float) -> None:
        """`model` "" where none was on its way."""
        self.count += 1
        self._models.update(filter(None, [model]))
        if len(self._models) > 1:
            self.not_before_s = now_s + delay_s(self.spec, self.count)

    def worked(self) -> None:
        self.count = 0
        self._models.clear()


def delay_s(spec: BackOffSpec, failures: int) -> float:
    """How long to wait after so many failures in a row.

    The first is let off: a kill at random should not cost a lease that waits another second.
    """
    return 0.0 if failures <= 1 else min(spec.longest_s, spec.first_s * 2.0 ** min(failures - 2, 30))


def failed(spec: BackOffSpec, state: BackOffState, model: str, now_s: float) -> BackOffState:
    """An engine for this model did not come up, or died."""
    known = state.models.get(model)
    count = known.count + 1 if known is not None and now_s - known.at_s < spec.forgotten_s else 1
    others = {name: entry for name, entry in state.models.items() if name != model}
    if len(others) >= spec.most:
        del others[min(others, key=lambda name: others[name].at_s)]
    return replace(state, models={**others, model: Failures(count, now_s, now_s + delay_s(spec, count))})


def worked(state: BackOffState, model: str) -> BackOffState:
    """An engine serves this model."""
    if model not in state.models:
        return state
    return replace(state, models={name: entry for name, entry in state.models.items() if name != model})


def wait_s(state: BackOffState, model: str, now_s: float) -> float:
    """Seconds until an engine for it may be tried again; 0 for now."""
    known = state.models.get(model)
    return max(0.0, known.not_before_s - now_s) if known is not None else 0.0
