"""What the pool has learned of models: how long engines take, when each was used, what fails, what never starts."""

from __future__ import annotations

from collections.abc import Callable

from pilotlight_pool.engine_orders import ModelFacts
from pilotlight_pool.policy.placement import boot_backoff, prediction
from pilotlight_pool.policy.placement.prediction import Outcome, Path, PredictionSpec
from pilotlight_protocol.back_off import BackOff
from pilotlight_protocol.errors import PilotlightError

_MOST_REFUSALS = 1024
_MOST_USED = 1024


class ModelHistory:
    def __init__(self, spec: PredictionSpec, back_off: BackOff, clock: Callable[[], float]) -> None:
        self.predictions = prediction.PredictionState()
        self._spec = spec
        self._back_off = back_off
        self._clock = clock
        self._failing = boot_backoff.ModelFailures()
        self._refused: dict[tuple[str, str], PilotlightError] = {}
        self._used_s: dict[str, float] = {}

    def predicted_s(self, path: Path, facts: ModelFacts) -> float:
        """Until an engine is ready by this path."""
        return prediction.predict(
            self._spec, self.predictions, path, facts.tier, facts.fingerprint, facts.weights_bytes
        )

    def predicted_fetch_s(self, facts: ModelFacts) -> float:
        """Until its weights are on a node that has to fetch them."""
        return facts.weights_bytes * prediction.seconds_per_byte(self._spec, self.predictions, "remote")

    def learn(self, outcome: Outcome) -> None:
        self.predictions = prediction.observe(self._spec, self.predictions, outcome)

    def learn_promise(self, queued: bool, promised_s: float, took_s: float) -> None:
        """A holder was told to wait so long, and this is how long it took."""
        self.predictions = prediction.observe_promise(self._spec, self.predictions, queued, promised_s, took_s)

    def used(self, facts: ModelFacts) -> None:
        self._used_s.pop(facts.key, None)
        self._used_s[facts.key] = self._clock()
        if len(self._used_s) > _MOST_USED:
            del self._used_s[next(iter(self._used_s))]

    def last_used_s(self, model: str) -> float:
        """0 where it never was, or too long ago to be known."""
        return self._used_s.get(model, 0.0)

    def failed(self, model: str) -> None:
        """An engine for it failed: the next one has to wait, wherever."""
        self._failing = boot_backoff.failed(self._back_off, self._failing, model, self._clock())

    def worked(self, model: str) -> None:
        self._failing = boot_backoff.worked(self._failing, model)

    def wait_s(self, model: str) -> float:
        return boot_backoff.wait_s(self._failing, model, self._clock())

    def refuse(self, kind: tuple[str, str], error: PilotlightError) -> None:
        """No engine of this kind ever starts, or takes this adapter: bytes and arguments are part of its name."""
        self._refused[kind] = error
        if len(self._refused) > _MOST_REFUSALS:
            del self._refused[next(iter(self._refused))]

    def refusal_of(self, facts: ModelFacts) -> PilotlightError | None:
        return next((self._refused[kind] for kind in facts.kinds if kind in self._refused), None)

    def forget_refusals(self) -> None:
        """A node has come that may have what engines lacked: a compiler, a library, a larger slot."""
        self._refused.clear()
