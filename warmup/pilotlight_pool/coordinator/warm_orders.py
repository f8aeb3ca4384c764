"""The engines that tenants want held warm: prewarm calls, schedules, and what came of them.

Every order is one tenant's, under one isolation: nobody ends, replaces or sees another's. A tenant's orders are in
force up to its share of the slots, the oldest first; the others wait for one of them to end.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pilotlight_pool.engine_orders import EngineOrder
from pilotlight_pool.policy.keep_warm import prewarm_schedule
from pilotlight_pool.policy.leases.isolation import may_reuse
from pilotlight_pool.policy.leases.lease_terms import LeaseWish
from pilotlight_pool.policy.leases.ledger import Engine
from pilotlight_pool.policy.placement import boot_backoff
from pilotlight_protocol.back_off import BackOff
from pilotlight_protocol.errors import InvalidInput, TooManyRequests
from pilotlight_protocol.leases import Isolation

log = logging.getLogger(__name__)
MOST_OF_A_TENANT = 128
MOST = 1024
WarmKey = tuple[str, Isolation, str, str]
"""Tenant, isolation, and the kind of engine: model and fingerprint."""


@dataclass(frozen=True, slots=True)
class WarmOrder:
    """An engine to be held warm, and for whom."""

    order: EngineOrder
    tenant: str
    isolation: Isolation

    @property
    def key(self) -> WarmKey:
        return self.tenant, self.isolation, *self.order.facts.kind

    @property
    def wish(self) -> LeaseWish:
        facts = self.order.facts
        return LeaseWish(
            f"prewarm {facts.key[:12]}", self.tenant, facts.key, facts.fingerprint, "batch", self.isolation,
            facts.weights_bytes, facts.memory_bytes,
        )  # fmt: skip

    def is_met_by(self, engine: Engine) -> bool:
        """True where a lease of this order would find the engine loaded."""
        return engine.kind == self.order.facts.kind and may_reuse(engine.tenant, engine.isolation, self.wish)


@dataclass(frozen=True, slots=True)
class _Hold:
    warm: WarmOrder
    until_s: float


@dataclass
class _Schedule:
    warm: WarmOrder
    text: str
    schedules: tuple[prewarm_schedule.PrewarmSchedule, ...]
    ask_again_s: float = 0.0


class WarmOrders:
    """Times are the pool's clock, but for schedules, which follow Unix time. `in_force`: as of the last `enforce`."""

    def __init__(self, back_off: BackOff) -> None:
        self._spec = back_off
        self._back_off = boot_backoff.ModelFailures()
        self._holds: dict[WarmKey, _Hold] = {}
        self._schedules: dict[tuple[str, Isolation, str], _Schedule] = {}
        self.in_force: tuple[WarmOrder, ...] = ()

    def hold(self, warm: WarmOrder, until_s: float) -> None:
        """Replaces this tenant's earlier hold of the model. Raises TooManyRequests for one too many."""
        _check_room(self._holds, warm.key, "prewarms")
        self._holds[warm.key] = _Hold(warm, until_s)

    def schedule(self, warm: WarmOrder, text: str) -> None:
        """Replaces this tenant's earlier one for the model, whatever engine arguments that had; "" ends it.

        Raises InvalidInput for one that is not understood, TooManyRequests for one too many.
        """
        if text and self.schedule_of(warm.key) == text:
            return
        try:
            schedules = prewarm_schedule.parse(text)
        except prewarm_schedule.InvalidSchedule as error:
            raise InvalidInput(str(error), param="schedule") from error
        if not schedules:
            self._schedules.pop(warm.key[:3], None)
            return
        _check_room(self._schedules, warm.key[:3], "schedules")
        self._schedules[warm.key[:3]] = _Schedule(warm, text, schedules)

    def follow(self, boot_s: Callable[[EngineOrder], float], now_s: float, unix_s: float) -> None:
        """Hold what a schedule wants by now. `boot_s`: how long before its window an engine is begun."""
        for entry in self._schedules.values():
            key = entry.warm.key
            if unix_s < entry.ask_again_s:
                continue
            decision = prewarm_schedule.decide(entry.schedules, boot_s(entry.warm.order), unix_s)
            if decision is None:
                continue
            entry.ask_again_s = decision.next_change_s
            if decision.warm_until_s is not None:
                until_s = now_s + decision.warm_until_s - unix_s
                self._holds[key] = _Hold(entry.warm, max(self.held_until_s(key) or 0.0, until_s))

    @property
    def tenants(self) -> set[str]:
        return {key[0] for key in self._holds}

    def enforce(self, share_slots: Mapping[str, float], now_s: float) -> None:
        """`share_slots`: of every tenant in `tenants`; one engine each at least."""
        self._holds = {key: hold for key, hold in self._holds.items() if hold.until_s > now_s}
        used: Counter[str] = Counter()
        in_force: list[WarmOrder] = []
        for (tenant, *_), hold in self._holds.items():
            if used[tenant] < max(1, int(share_slots.get(tenant, 0.0))):
                used[tenant] += 1
                in_force.append(hold.warm)
        self.in_force = tuple(in_force)

    def is_held(self, engine: Engine) -> bool:
        return any(warm.is_met_by(engine) for warm in self.in_force)

    def refused(self, warm: WarmOrder, now_s: float) -> None:
        """Its engine refuses to start as it is asked to: the order ends, and the next like it has to wait."""
        model = warm.order.facts.key[:12]
        log.warning("%s is held warm for %s no longer: its engine refuses its configuration", model, warm.tenant)
        self._holds.pop(warm.key, None)
        if self.schedule_of(warm.key):
            del self._schedules[warm.key[:3]]
        self.in_force = tuple(other for other in self.in_force if other.key != warm.key)
        self._back_off = boot_backoff.failed(self._spec, self._back_off, "|".join(warm.key), now_s)

    def wait_s(self, warm: WarmOrder, now_s: float) -> float:
        """Seconds until an engine for this order may be tried again; 0 for now."""
        return boot_backoff.wait_s(self._back_off, "|".join(warm.key), now_s)

    def held_until_s(self, key: WarmKey) -> float | None:
        hold = self._holds.get(key)
        return hold.until_s if hold is not None else None

    def schedule_of(self, key: WarmKey) -> str:
        """The schedule for an engine of this kind, "" without one."""
        found = self._schedules.get(key[:3])
        return found.text if found is not None and found.warm.key == key else ""

    def of_kind(self, kind: tuple[str, str]) -> tuple[WarmKey, ...]:
        """Everybody's orders for it."""
        known = dict.fromkeys([*self._holds, *(entry.warm.key for entry in self._schedules.values())])
        return tuple(key for key in known if key[2:] == kind)


def _check_room(known: Iterable[tuple[str, ...]], key: tuple[str, ...], what: str) -> None:
    others = [other for other in known if other != key]
    if len(others) >= MOST or sum(other[0] == key[0] for other in others) >= MOST_OF_A_TENANT:
        raise TooManyRequests(f"{MOST_OF_A_TENANT} {what} of a tenant at most, {MOST} in all; end one of them first")
