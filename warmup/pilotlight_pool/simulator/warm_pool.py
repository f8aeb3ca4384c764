"""The warm pool: engines shared by the fine-tunes of a fingerprint, kept by `policy.keep_alive` and `policy.forecast`.

An endpoint holds an engine while it has work and gives it back at once after; the engine stays parked with its weights.
A request of an endpoint without an engine gets, in this order: its own parked engine (no wait), another parked engine
of its fingerprint (a swap, over the weights that greedy-dual values least), and otherwise waits for whichever comes
first: an engine that another endpoint gives back, or one that is booted for it.

The k-th simultaneous demand for a fingerprint is a *level*. Each level that falls idle gets a keep-alive plan from its
own histogram; slots stay for the present demand plus the levels that their plans, or the forecast, hold warm. What
holds no slot is free, so weights in RAM (greedy-dual over `ram_models`) only decide how long a swap takes.

Not modelled: an upper bound of slots, a bounded batch per engine, failures. As in `fixed_window`, one engine serves any
number of one endpoint's requests at once.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from pilotlight_pool.policy.keep_warm import forecast, idle_histogram, keep_alive
from pilotlight_pool.policy.placement import greedy_dual
from pilotlight_pool.simulator.outcome import Outcome
from pilotlight_pool.simulator.request_trace import Trace

KeepRule = Literal["histogram", "fixed"]


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Seconds of each path, and the policy's one knob (`keep.price_slot_s`).

    `thin_pod_s`: starting the endpoint's CPU pod, needed when it was idle for `thin_pod_keep_s` (Knative's 60 + 30 s);
    it overlaps with making the engine ready. `forecast`: None leaves the day's profile out. `rule` "fixed": every level
    is kept for exactly `price_slot_s` (ablation).
    """

    boot_s: float = 29.0
    swap_ram_s: float = 0.25
    swap_disk_s: float = 1.0
    thin_pod_s: float = 1.4
    thin_pod_keep_s: float = 90.0
    ram_models: int = 64
    keep: keep_alive.KeepAliveSpec = field(default_factory=keep_alive.KeepAliveSpec)
    forecast: forecast.ForecastSpec | None = None
    rule: KeepRule = "histogram"


@dataclass(slots=True, eq=False)
class _Level:
    """The k-th simultaneous demand of a fingerprint. `stamp` voids the events of gaps that are over."""

    idle_since_s: float | None = None
    histogram: idle_histogram.IdleHistogram = field(default_factory=idle_histogram.IdleHistogram)
    profile: forecast.DayProfile = field(default_factory=forecast.DayProfile)
    plan: keep_alive.KeepAlivePlan | None = None
    planned_at_count: int = -1
    kept: bool = False
    forecast_kept: bool = False
    stamp: int = 0


@dataclass(slots=True, eq=False)
class _Family:
    """One fingerprint: `engines` counts booting ones too, `parked` maps an engine to the endpoint whose weights it has.

    `levels[k]` is demand k + 1; levels below `demand` are busy.
    """

    number: int
    demand: int = 0
    engines: int = 0
    booting: int = 0
    parked: dict[int, None] = field(default_factory=dict)
    blank: int = 0
    waiting: deque[int] = field(default_factory=deque)
    levels: list[_Level] = field(default_factory=list)


def simulate(trace: Trace, spec: PoolSpec, name: str) -> Outcome:
    """Replay the trace."""
    return _Run(trace, spec, name).replay()


class _Run:
    def __init__(self, trace: Trace, spec: PoolSpec, name: str) -> None:
        self.trace, self.spec = trace, spec
        self.outcome = Outcome(name, len(trace.arrivals_s))
        names = sorted({endpoint.fingerprint for endpoint in trace.endpoints})
        self.families = [_Family(number) for number in range(len(names))]
        self.family_of = [self.families[names.index(endpoint.fingerprint)] for endpoint in trace.endpoints]
        count = len(trace.endpoints)
        self.held = [False] * count
        self.ready_s = [0.0] * count
        self.busy_until_s = [float("-inf")] * count
        self.pending: dict[int, list[tuple[float, float]]] = {}
        self.ram = greedy_dual.GreedyDualState()
        self.events: list[tuple[float, int, str, int, int]] = []
        self.sequence = 0
        self.slots, self.slots_since_s = 0, 0.0

    def replay(self) -> Outcome:
        trace, held, ready_s, busy_until_s = self.trace, self.held, self.ready_s, self.busy_until_s
        waits_s, events = self.outcome.waits_s, self.events
        if self.spec.forecast is not None:
            self.at(self.spec.forecast.slice_s - self.spec.boot_s, "slice", 0, 0)
        for at_s, endpoint, duration_s in zip(trace.arrivals_s, trace.endpoint_of, trace.durations_s, strict=True):
            while events and events[0][0] <= at_s:
                self.step(*heapq.heappop(events))
            if held[endpoint]:
                wait_s = ready_s[endpoint] - at_s
                if wait_s > 0.0:
                    waits_s.append(wait_s)
                    end_s = ready_s[endpoint] + duration_s
                else:
                    end_s = at_s + duration_s
                busy_until_s[endpoint] = max(busy_until_s[endpoint], end_s)
            elif endpoint in self.pending:
                self.pending[endpoint].append((at_s, duration_s))
            else:
                self.begin(endpoint, at_s, duration_s)
        for requests in self.pending.values():
            waits_s.extend(self.trace.horizon_s - at_s for at_s, _ in requests)
        self.count_slots(0, trace.horizon_s)
        return self.outcome

    def at(self, when_s: float, kind: str, family: int, subject: int) -> None:
        self.sequence += 1
        heapq.heappush(self.events, (when_s, self.sequence, kind, family, subject))

    def step(self, now_s: float, _: int, kind: str, number: int, subject: int) -> None:
        if kind == "idle":
            if self.busy_until_s[number] > now_s:
                self.at(self.busy_until_s[number], "idle", number, 0)
            else:
                self.end(number, now_s)
        elif kind == "booted":
            self.booted(self.families[number], now_s)
        elif kind == "slice":
            if self.spec.forecast is not None:
                self.look_ahead(self.spec.forecast, now_s)
        else:
            self.follow_plan(kind, number, subject, now_s)

    def begin(self, endpoint: int, now_s: float, duration_s: float) -> None:
        """An endpoint without an engine has work: demand rises by one level."""
        family = self.family_of[endpoint]
        if family.demand == len(family.levels):
            family.levels.append(_Level())
        level = family.levels[family.demand]
        family.demand += 1
        if level.idle_since_s is not None:
            gap_s = now_s - level.idle_since_s
            level.histogram = idle_histogram.record(level.histogram, gap_s)
            if self.spec.forecast is not None:
                level.profile = forecast.record(self.spec.forecast, level.profile, gap_s, now_s)
        level.stamp += 1
        level.kept = False
        self.pending[endpoint] = [(now_s, duration_s)]
        if family.parked or family.blank:
            self.take_parked(family, endpoint, now_s)
            return
        family.waiting.append(endpoint)
        if family.booting < len(family.waiting):
            self.boot(family, now_s)

    def take_parked(self, family: _Family, endpoint: int, now_s: float) -> None:
        if endpoint in family.parked:
            del family.parked[endpoint]
            self.serve(endpoint, now_s, now_s, swapped=False)
            return
        if family.blank:
            family.blank -= 1
        else:
            del family.parked[self.least_worth(family)]
        self.serve(endpoint, now_s, now_s + self.swap_s(endpoint), swapped=True)

    def serve(self, endpoint: int, now_s: float, ready_s: float, *, swapped: bool) -> None:
        """The endpoint has an engine that is ready at `ready_s`; everything that waited for it is served then.

        `swapped`: a parked engine was swapped for it at once, so the swap is all it waits for (and its thin pod).
        """
        idle_s = now_s - self.busy_until_s[endpoint]
        if idle_s > self.spec.thin_pod_keep_s:
            ready_s = max(ready_s, self.pending[endpoint][0][0] + self.spec.thin_pod_s)
        self.held[endpoint], self.ready_s[endpoint] = True, ready_s
        for at_s, duration_s in self.pending.pop(endpoint):
            wait_s = ready_s - at_s
            if wait_s > 0.0:
                self.outcome.waits_s.append(wait_s)
                if swapped:
                    self.outcome.swap_waits_s.append(wait_s)
            self.busy_until_s[endpoint] = max(self.busy_until_s[endpoint], ready_s + duration_s)
        self.keep_in_ram(endpoint)
        self.at(self.busy_until_s[endpoint], "idle", endpoint, 0)

    def end(self, endpoint: int, now_s: float) -> None:
        """The endpoint has no more work: its engine goes to whoever waits, or is parked, and demand falls a level."""
        family = self.family_of[endpoint]
        self.held[endpoint] = False
        family.demand -= 1
        level = family.levels[family.demand]
        level.idle_since_s = now_s
        if family.waiting:
            waiting = family.waiting.popleft()
            self.serve(waiting, now_s, now_s + self.swap_s(waiting), swapped=False)
        else:
            family.parked[endpoint] = None
        self.plan(family, family.demand, now_s)
        self.trim(family, now_s)

    def plan(self, family: _Family, depth: int, now_s: float) -> None:
        level = family.levels[depth]
        # A plan is worked out again when its histogram has grown by a sixteenth: exact enough, ten times as fast.
        if level.plan is None or level.histogram.count >= level.planned_at_count * 17 // 16 + 1:
            if self.spec.rule == "fixed":
                level.plan = keep_alive.KeepAlivePlan(self.spec.keep.price_slot_s, None, None, "fixed", "")
            else:
                level.plan = keep_alive.decide(self.spec.keep, level.histogram)
            level.planned_at_count = level.histogram.count
        number, subject = family.number, depth * _STAMPS + level.stamp
        level.kept = level.plan.keep_s > 0.0
        if level.kept:
            self.at(now_s + level.plan.keep_s, "release", number, subject)
        if level.plan.prewarm_s is not None and level.plan.rewarmed_until_s is not None:
            self.at(now_s + level.plan.prewarm_s, "prewarm", number, subject)
            self.at(now_s + level.plan.rewarmed_until_s, "release", number, subject)

    def follow_plan(self, kind: str, number: int, subject: int, now_s: float) -> None:
        family = self.families[number]
        depth, stamp = divmod(subject, _STAMPS)
        level = family.levels[depth]
        if level.stamp != stamp:
            return
        level.kept = kind == "prewarm"
        if level.kept:
            self.fill(family, now_s)
        else:
            self.trim(family, now_s)

    def look_ahead(self, spec: forecast.ForecastSpec, now_s: float) -> None:
        """Once per slice of the day, a boot before it begins: which idle levels will probably be wanted in it?"""
        begins_s = now_s + self.spec.boot_s
        for family in self.families:
            for level in family.levels:
                level.forecast_kept, _ = forecast.is_worth_holding(
                    spec, level.profile, begins_s, self.spec.keep.price_slot_s
                )
            self.fill(family, now_s)
            self.trim(family, now_s)
        self.at(now_s + spec.slice_s, "slice", 0, 0)

    def wanted(self, family: _Family) -> int:
        wanted = family.demand
        for level in family.levels[wanted:]:
            if level.kept or level.forecast_kept:
                wanted += 1
        return wanted

    def fill(self, family: _Family, now_s: float) -> None:
        while family.engines < self.wanted(family):
            self.boot(family, now_s)

    def trim(self, family: _Family, now_s: float) -> None:
        surplus = family.engines - self.wanted(family)
        while surplus > 0 and (family.parked or family.blank):
            if family.blank:
                family.blank -= 1
            else:
                del family.parked[self.least_worth(family)]
            family.engines -= 1
            surplus -= 1
            self.count_slots(-1, now_s)

    def boot(self, family: _Family, now_s: float) -> None:
        family.engines += 1
        family.booting += 1
        self.outcome.boots += 1
        self.count_slots(1, now_s)
        self.at(now_s + self.spec.boot_s, "booted", family.number, 0)

    def booted(self, family: _Family, now_s: float) -> None:
        family.booting -= 1
        if family.waiting:
            # Booted with the weights of whoever waits first: no swap on top.
            self.serve(family.waiting.popleft(), now_s, now_s, swapped=False)
        else:
            family.blank += 1
        self.trim(family, now_s)

    def least_worth(self, family: _Family) -> int:
        """The parked engine whose weights are worth least, by the priority that RAM's greedy-dual gives them."""
        entries = self.ram.entries
        return min(family.parked, key=lambda e: (entries[str(e)].priority if str(e) in entries else 0.0, e))

    def swap_s(self, endpoint: int) -> float:
        return self.spec.swap_ram_s if str(endpoint) in self.ram.entries else self.spec.swap_disk_s

    def keep_in_ram(self, endpoint: int) -> None:
        key = str(endpoint)
        if key not in self.ram.entries:
            _, self.ram = greedy_dual.make_room(self.ram, 1, self.spec.ram_models)
        self.ram = greedy_dual.touch(self.ram, key, 1, self.spec.swap_disk_s - self.spec.swap_ram_s)

    def count_slots(self, change: int, now_s: float) -> None:
        self.outcome.slot_seconds += self.slots * (now_s - self.slots_since_s)
        self.slots += change
        self.slots_since_s = now_s
        self.outcome.peak_slots = max(self.outcome.peak_slots, self.slots)


_STAMPS = 1 << 32
