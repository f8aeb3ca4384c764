"""How many seconds until a model is ready on each path, learned from what happened, and how wrong that was.

    path     what has to happen                                        process part   weights part
    loaded   the engine holds the weights already                      ~0             none
    adapter  it does, and loads the adapter that the lease brings      learned        none
    wake     a sleeping engine of the same model (CUDA)                learned        none
    swap     same fingerprint: exchange weights in a running engine    learned        tier
    fork     zygote forks a host, which builds an engine               learned        tier
    boot     a cold process                                            learned        tier

predicted = process seconds of (path, fingerprint) + weight bytes x seconds per byte of the tier they come from.
Both are exponentially weighted means; the second is a ratio of sums, so that a 15 MB model's fixed costs do not
spoil the figure of a 15 GB one. A (path, fingerprint) never seen uses its path's mean, and that its prior; the last
thousand that were seen are remembered.

Every prediction is compared with its outcome: `observe` for a path, `observe_promise` for what a holder was told when
it asked, which contains its wait for a slot. `error` and `promise_error` give the figures that become metrics.
Pure: the caller measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Path = Literal["loaded", "adapter", "wake", "swap", "fork", "boot"]
Tier = Literal["ram", "disk", "remote"]

MOVES_WEIGHTS: frozenset[Path] = frozenset({"swap", "fork", "boot"})
_ANY = "*"
_RECENT = 64
_MOST_LEARNED = 1024


@dataclass(frozen=True, slots=True)
class PredictionSpec:
    """Priors, used until something was measured, and how fast experience replaces them.

    `process_s`: vLLM 0.32 on 2 CPU cores with small models. `s_per_byte`: 4 GB/s from the page cache, 1 GB/s from
    disk, 0.1 GB/s from a remote store, on purpose slower than good hardware: an optimistic prior would promise.
    `smoothing` is the weight of the newest measurement.
    """

    process_s: Mapping[Path, float] = field(
        default_factory=lambda: {"loaded": 0.005, "adapter": 0.05, "wake": 0.5, "swap": 0.05, "fork": 4.0, "boot": 29.0}
    )
    s_per_byte: Mapping[Tier, float] = field(
        default_factory=lambda: {"ram": 1 / 4e9, "disk": 1 / 1e9, "remote": 1 / 1e8}
    )
    smoothing: float = 0.3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a path took: the process part and the weights part, seconds; `predicted_s` is what placement had said."""

    path: Path
    tier: Tier
    fingerprint: str
    weights_bytes: int
    process_s: float
    weights_s: float
    predicted_s: float


@dataclass(frozen=True, slots=True)
class PredictionError:
    """Of one path. `bias_s` > 0: things took longer than predicted. `ratio_p90`: actual / predicted, of the last 64."""

    count: int
    bias_s: float
    ratio_p90: float


@dataclass(frozen=True, slots=True)
class _Track:
    count: int = 0
    bias_s: float = 0.0
    ratios: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class PredictionState:
    """Everything learned so far; starts empty."""

    process_s: Mapping[tuple[Path, str], float] = field(default_factory=dict)
    moved: Mapping[Tier, tuple[float, float]] = field(default_factory=dict)  # mean seconds, mean bytes
    tracks: Mapping[Path, _Track] = field(default_factory=dict)
    promises: Mapping[bool, _Track] = field(default_factory=dict)  # by whether the lease had to wait for a slot


def predict(
    spec: PredictionSpec, state: PredictionState, path: Path, tier: Tier, fingerprint: str, weights_bytes: int
) -> float:
    """Seconds until ready."""
    learned = state.process_s.get((path, fingerprint), state.process_s.get((path, _ANY)))
    process_s = spec.process_s[path] if learned is None else learned
    if path not in MOVES_WEIGHTS:
        return process_s
    return process_s + weights_bytes * seconds_per_byte(spec, state, tier)


def seconds_per_byte(spec: PredictionSpec, state: PredictionState, tier: Tier) -> float:
    """Learned for the tier, or its prior."""
    seconds, moved_bytes = state.moved.get(tier, (0.0, 0.0))
    return seconds / moved_bytes if moved_bytes > 0 else spec.s_per_byte[tier]


def observe(spec: PredictionSpec, state: PredictionState, outcome: Outcome) -> PredictionState:
    """Learn from one outcome and remember how far off its prediction was."""
    process_s = dict(state.process_s)
    for key in ((outcome.path, outcome.fingerprint), (outcome.path, _ANY)):
        process_s[key] = _mixed(process_s.pop(key, None), outcome.process_s, spec.smoothing)
    if len(process_s) > _MOST_LEARNED:
        # The one learned from longest ago: tenants choose fingerprints, by engine arguments.
        del process_s[next(key for key in process_s if key[1] != _ANY)]
    moved = dict(state.moved)
    if outcome.path in MOVES_WEIGHTS and outcome.weights_bytes > 0:
        known = moved.get(outcome.tier)
        moved[outcome.tier] = (
            _mixed(known[0] if known else None, outcome.weights_s, spec.smoothing),
            _mixed(known[1] if known else None, float(outcome.weights_bytes), spec.smoothing),
        )
    before = state.tracks.get(outcome.path, _Track())
    after = _tracked(before, outcome.predicted_s, outcome.process_s + outcome.weights_s, spec.smoothing)
    return replace(state, process_s=process_s, moved=moved, tracks={**state.tracks, outcome.path: after})


def observe_promise(
    spec: PredictionSpec, state: PredictionState, queued: bool, promised_s: float, actual_s: float
) -> PredictionState:
    """Remember how far off was what the holder of a lease had been told when it asked, in seconds from then on."""
    after = _tracked(state.promises.get(queued, _Track()), promised_s, actual_s, spec.smoothing)
    return replace(state, promises={**state.promises, queued: after})


def error(state: PredictionState, path: Path) -> PredictionError | None:
    """How good the predictions for a path are, or None before the first outcome."""
    return _figures(state.tracks.get(path))


def promise_error(state: PredictionState, queued: bool) -> PredictionError | None:
    """How good the predicted ready times of leases are, of those that waited for a slot or of the others."""
    return _figures(state.promises.get(queued))


def _figures(track: _Track | None) -> PredictionError | None:
    if track is None:
        return None
    ratios = sorted(track.ratios)
    p90 = ratios[min(len(ratios) - 1, int(0.9 * len(ratios)))]
    return PredictionError(track.count, track.bias_s, p90)


def _tracked(track: _Track, predicted_s: float, actual_s: float, smoothing: float) -> _Track:
    off_s = actual_s - predicted_s
    seen = track.count > 0
    return replace(
        track,
        count=track.count + 1,
        bias_s=_mixed(track.bias_s if seen else None, off_s, smoothing),
        ratios=(*track.ratios[-_RECENT + 1 :], actual_s / max(predicted_s, 1e-6)),
    )


def _mixed(before: float | None, value: float, smoothing: float) -> float:
    return value if before is None else before + smoothing * (value - before)
