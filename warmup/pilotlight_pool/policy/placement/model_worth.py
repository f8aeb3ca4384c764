"""What an engine's present model is worth keeping: its greedy-dual priority, engines being of one size. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pilotlight_protocol import greedy_dual

# Of those that were used at all; the others count as worth nothing.
MOST_MODELS = 1024


@dataclass(frozen=True, slots=True)
class Worth:
    frequency: int
    priority: float


@dataclass(frozen=True, slots=True)
class WorthState:
    clock: float = 0.0
    models: Mapping[str, Worth] = field(default_factory=dict)

    def of(self, model: str) -> float:
        known = self.models.get(model)
        return known.priority if known is not None else 0.0


def used(state: WorthState, model: str, back_s: float, most: int = MOST_MODELS) -> WorthState:
    """It was used, or is new: it rises by the `back_s` that it would cost to miss it."""
    known = state.models.get(model)
    frequency = 1 if known is None else known.frequency + 1
    worth = Worth(frequency, greedy_dual.priority(state.clock, frequency, back_s, 1))
    models = {**state.models, model: worth}
    if len(models) <= most:
        return replace(state, models=models)
    entries = (greedy_dual.Entry(key, 1, each.priority) for key, each in models.items())
    victims = greedy_dual.choose(entries, len(models) - most, state.clock)
    return WorthState(victims.clock, {key: each for key, each in models.items() if key not in victims.keys})
