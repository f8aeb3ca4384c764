"""Prometheus metrics of the coordinator: counters and histograms are told, gauges read from the pool at a scrape."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from pilotlight_pool.coordinator.lease_record import LeaseRecord
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.engine_orders import EngineReady
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.policy.placement.prediction import Path, error, promise_error

_SHORT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_YES_NO = {True: "yes", False: "no"}
_PATHS: tuple[Path, ...] = ("loaded", "adapter", "wake", "swap", "fork", "boot")


class PoolMetrics:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._registry = CollectorRegistry()
        one = self._registry
        self._wait = Histogram(
            "pilotlight_lease_wait_seconds", "From the request to an active lease.", ["path"], buckets=_SHORT_S,
            registry=one,
        )  # fmt: skip
        self._ready = Histogram(
            "pilotlight_engine_ready_seconds", "A slot's way to an engine with the right weights.", ["path"],
            buckets=_SHORT_S, registry=one,
        )  # fmt: skip
        self._phase = Histogram(
            "pilotlight_engine_phase_seconds", "Phases of swaps, forks and boots.", ["path", "phase"],
            buckets=_SHORT_S, registry=one,
        )  # fmt: skip
        self._off = Histogram(
            "pilotlight_prediction_error_seconds", "|what happened - what was predicted|, per path.", ["path"],
            buckets=_SHORT_S, registry=one,
        )  # fmt: skip
        self._promise = Histogram(
            "pilotlight_lease_prediction_error_seconds",
            "|when a lease became active - when its holder was first told it would|; queued: it waited for a slot.",
            ["path", "queued"], buckets=_SHORT_S, registry=one,
        )  # fmt: skip
        self._ends = Counter("pilotlight_lease_ends", "Leases that ended, by how.", ["how"], registry=one)
        self._evictions = Counter("pilotlight_evictions", "Engines stopped, by why.", ["why"], registry=one)
        self._swap_failures = Counter("pilotlight_swap_failures", "Swaps that were not accepted.", registry=one)
        self._failures = Counter("pilotlight_engine_failures", "Engines lost or never ready.", registry=one)
        self._prewarms = Counter("pilotlight_prewarms", "Models loaded ahead, by schedule or call.", registry=one)
        one.register(self)

    def granted(self, record: LeaseRecord, now_s: float) -> None:
        self._wait.labels(record.path).observe(now_s - record.asked_s)
        if record.promise is not None:
            ready_s = record.promise.at_s + record.promise.eta_s
            self._promise.labels(record.path, _YES_NO[record.queued]).observe(abs(now_s - ready_s))

    def made_ready(self, path: Path, ready: EngineReady, predicted_s: float, took_s: float) -> None:
        self._ready.labels(path).observe(took_s)
        self._off.labels(path).observe(abs(took_s - predicted_s))
        for phase, seconds in ready.phases_s.items():
            self._phase.labels(path, phase).observe(seconds)

    def ended(self, how: str) -> None:
        self._ends.labels(how).inc()

    def evicted(self, why: str) -> None:
        self._evictions.labels(why).inc()

    def swap_failed(self) -> None:
        self._swap_failures.inc()

    def engine_failed(self) -> None:
        self._failures.inc()

    def prewarmed(self) -> None:
        self._prewarms.inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Gauges (prometheus_client's collector interface)."""
        pool = self._pool
        leases = GaugeMetricFamily("pilotlight_leases", "Leases by state and path.", labels=["state", "path"])
        found = Tally((lease.state, pool.records[key].path) for key, lease in pool.ledger.leases.items())
        for (state, path), count in found.items():
            leases.add_metric([state, path or "none"], count)
        slots = GaugeMetricFamily("pilotlight_slots", "Slots by state.", labels=["state"])
        states = Tally(slot.state for slot in pool.ledger.slots.values())
        for slot_state in SlotState:
            slots.add_metric([slot_state], states.get(slot_state, 0))
        absent = GaugeMetricFamily("pilotlight_slots_absent", "Slots whose agent does not answer.", len(pool.absent))
        waiting = GaugeMetricFamily("pilotlight_leases_waiting", "Leases in the queue.", len(pool.fair.waiting))
        bias = GaugeMetricFamily(
            "pilotlight_prediction_bias_seconds", "Mean of what happened - what was predicted.", labels=["path"]
        )
        ratio = GaugeMetricFamily(
            "pilotlight_prediction_ratio_p90", "90th percentile of actual / predicted, last 64.", labels=["path"]
        )
        for path in _PATHS:
            figures = error(pool.models.predictions, path)
            if figures is not None:
                bias.add_metric([path], figures.bias_s)
                ratio.add_metric([path], figures.ratio_p90)
        promised = GaugeMetricFamily(
            "pilotlight_lease_prediction_bias_seconds",
            "Mean of when leases became active - when their holders were first told they would.",
            labels=["queued"],
        )
        for queued, name in _YES_NO.items():
            figures = promise_error(pool.models.predictions, queued)
            if figures is not None:
                promised.add_metric([name], figures.bias_s)
        return [leases, slots, absent, waiting, bias, ratio, promised]
