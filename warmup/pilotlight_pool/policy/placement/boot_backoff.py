"""How long a model whose engines keep failing has to wait: it backs off, and not the slot that others want. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pilotlight_protocol.back_off import BackOff, Failures
from pilotlight_protocol.back_off import failed as failed_again

# The first is let off: a kill at random should not cost a lease that waits another second.
ENGINES = BackOff(first_s=0.25, longest_s=30.0, forgotten_after_s=300.0, free=1)
_MOST_MODELS = 1024


@dataclass(frozen=True, slots=True)
class _Known:
    failures: Failures
    at_s: float


@dataclass(frozen=True, slots=True)
class ModelFailures:
    models: Mapping[str, _Known] = field(default_factory=dict)


@dataclass
class SlotFailures:
    """Of one slot, in a row. One model that fails backs off alone; where several do, it is the slot that waits."""

    back_off: BackOff
    count: int = 0
    not_before_s: float = 0.0
    _models: set[str] = field(default_factory=set)

    def failed(self, model: str, now_s: float) -> None:
        """`model` "" where none was on its way."""
        self.count += 1
        self._models.update(filter(None, [model]))
        if len(self._models) > 1:
            self.not_before_s = now_s + self.back_off.delay_s(self.count)

    def worked(self) -> None:
        self.count = 0
        self._models.clear()


def failed(
    back_off: BackOff, state: ModelFailures, model: str, now_s: float, most: int = _MOST_MODELS
) -> ModelFailures:
    """An engine for this model did not come up, or died. One long after the last failure stands alone. Of models,
    `most` are remembered."""
    known = state.models.get(model, _Known(Failures(), now_s))
    others = {name: entry for name, entry in state.models.items() if name != model}
    if len(others) >= most:
        del others[min(others, key=lambda name: others[name].at_s)]
    failures = failed_again(back_off, known.failures, now_s, now_s - known.at_s)
    return ModelFailures({**others, model: _Known(failures, now_s)})


def worked(state: ModelFailures, model: str) -> ModelFailures:
    """An engine serves this model."""
    if model not in state.models:
        return state
    return ModelFailures({name: entry for name, entry in state.models.items() if name != model})


def wait_s(state: ModelFailures, model: str, now_s: float) -> float:
    """Seconds until an engine for it may be tried again; 0 for now."""
    known = state.models.get(model)
    return known.failures.wait_s(now_s) if known is not None else 0.0
