"""Whose turn it is before one endpoint: who goes at once, who waits, who comes next, who is turned away. Pure.

    room             requests in flight < what the upstream takes; a little of it is kept for high priority, and idle
                     work starts only while much of it is free and nobody waits
    which class      the most urgent one; normal and low are owed a share of what goes before them, and take it
    which tenant     the one furthest behind in tokens (`fair_band`)
    full             who is more urgent takes the place of the newest of the least urgent class, which keeps its share
                     of the places; among equals the tenant with the longest queue gives way; else who comes is
                     turned away

The time is passed in. What is told to a client says nothing of who else waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pilotlight_gateway.priorities.fair_band import FairBand, Ticket
from pilotlight_gateway.priorities.queue_settings import QueueSettings
from pilotlight_gateway.priorities.upstream_capacity import UpstreamCapacity
from pilotlight_gateway.priorities.work_rate import WorkRate
from pilotlight_protocol.request_priority import PRIORITIES, RANK

HIGH_SEEN_S = 60.0
_HIGH, _NORMAL, _LOW, _IDLE = (RANK[name] for name in PRIORITIES)

How = Literal["answered", "refused", "unfinished"]
"""How a request that had started ended: `refused`: its upstream had no room for it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """`of_tenant`: its own queue is full, not everybody's."""

    of_tenant: bool
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Entered:
    """`evicted`: who waited and has to be told to come back, with its refusal."""

    goes: bool
    refusal: Refusal | None = None
    evicted: tuple[Ticket, Refusal] | None = None


GOES = Entered(True)
WAITS = Entered(False)


class EndpointTurns:
    def __init__(self, settings: QueueSettings, ceiling: int, now_s: float) -> None:
        self.settings = settings
        self.capacity = UpstreamCapacity(ceiling)
        self.rate = WorkRate(now_s)
        self.in_flight = 0
        self.waiting = 0
        self._bands = tuple(FairBand() for _ in PRIORITIES)
        self._owed = [0.0 for _ in PRIORITIES]
        self._high_seen_s = float("-inf")
        self._bytes = 0
        self._bytes_of: dict[str, int] = {}

    @property
    def is_unused(self) -> bool:
        return not self.in_flight and not self.waiting

    def wait_s(self, now_s: float) -> float:
        """How long those who wait now will, all together, as far as the rate is known."""
        return self.rate.takes_s(sum(band.tokens for band in self._bands), now_s)

    def enter(self, ticket: Ticket, now_s: float) -> Entered:
        """One that goes has started; it is ended by `end`, and one that waits by `give_up`."""
        rank = ticket.rank
        if rank == _HIGH:
            self._high_seen_s = now_s
        if self._has_room(rank, now_s) and (not self.waiting or not self._waits_up_to(rank)):
            self._start(ticket, now_s)
            return GOES
        of_tenant = not self._fits_tenant(ticket, None)
        evicted = None
        if of_tenant or not self._fits_all(ticket, None):
            victim = self._own_less_urgent(ticket) if of_tenant else self._who_gives_way(ticket)
            if victim is None or not (self._fits_tenant(ticket, victim) and self._fits_all(ticket, victim)):
                return Entered(False, self._refusal(ticket, of_tenant=of_tenant, now_s=now_s))
            self.give_up(victim)
            evicted = victim, self._refusal(victim, of_tenant=of_tenant, now_s=now_s)
        self._bands[rank].push(ticket)
        self._count(ticket, 1)
        return WAITS if evicted is None else Entered(False, None, evicted)

    def give_up(self, ticket: Ticket) -> bool:
        """It waits no more; False where it has started."""
        if not self._bands[ticket.rank].remove(ticket):
            return False
        self._count(ticket, -1)
        return True

    def late(self, ticket: Ticket, now_s: float) -> Refusal:
        """It has waited too long, and given up."""
        return self._refusal(ticket, of_tenant=False, now_s=now_s)

    def end(self, ticket: Ticket, tokens: int, how: How, now_s: float) -> None:
        """`next` tells who may go now."""
        assert ticket.started_s is not None
        if how == "refused":
            self.capacity.refused(ticket.started_s, self.in_flight, now_s)
        elif how == "answered":
            self.capacity.answered(self.in_flight)
        self.in_flight -= ticket.weight
        self._bands[ticket.rank].end(ticket, tokens)
        self.rate.done(tokens, now_s)

    def next(self, now_s: float) -> Iterator[Ticket]:
        """Each of them has started."""
        while self.waiting:
            ticket = self._next(now_s)
            if ticket is None:
                return
            self._start(ticket, now_s)
            self._count(ticket, -1)
            yield ticket

    def _next(self, now_s: float) -> Ticket | None:
        chosen: Ticket | None = None
        for rank, band in enumerate(self._bands):
            if not band.waiting or not self._has_room(rank, now_s):
                continue
            head = band.head()
            assert head is not None
            if chosen is None or self._owed[rank] >= head.tokens:
                chosen = head
        return chosen

    def _has_room(self, rank: int, now_s: float) -> bool:
        limit = int(self.capacity.limit)
        if rank == _HIGH:
            return self.in_flight < limit
        if rank == _IDLE:
            return not self._waits_up_to(_LOW) and self.in_flight < max(1, int(limit * self.settings.idle_share))
        if now_s - self._high_seen_s < HIGH_SEEN_S:
            limit = max(1, limit - int(limit * self.settings.high_reserve))
        return self.in_flight < limit

    def _start(self, ticket: Ticket, now_s: float) -> None:
        rank = ticket.rank
        self._bands[rank].start(ticket)
        self.in_flight += ticket.weight
        ticket.started_s = now_s
        if self.waiting:
            self._owed[rank] = max(0.0, self._owed[rank] - ticket.tokens)
            for other, share in ((_NORMAL, self.settings.normal_share), (_LOW, self.settings.low_share)):
                if other > rank and self._bands[other].waiting:
                    self._owed[other] += ticket.tokens * share

    def _waits_up_to(self, rank: int) -> bool:
        return any(band.waiting for band in self._bands[: rank + 1])

    def _count(self, ticket: Ticket, by: int) -> None:
        self.waiting += by
        self._bytes += by * ticket.size_bytes
        left = self._bytes_of.get(ticket.tenant, 0) + by * ticket.size_bytes
        if left:
            self._bytes_of[ticket.tenant] = left
        else:
            self._bytes_of.pop(ticket.tenant, None)
        if by < 0 and not self._bands[ticket.rank].waiting:
            self._owed[ticket.rank] = 0.0

    def _fits_all(self, ticket: Ticket, without: Ticket | None) -> bool:
        settings, left = self.settings, 0 if without is None else 1
        taken = self._bytes + ticket.size_bytes - (0 if without is None else without.size_bytes)
        return self.waiting - left < settings.waiting and taken <= settings.waiting_bytes

    def _fits_tenant(self, ticket: Ticket, without: Ticket | None) -> bool:
        settings, tenant = self.settings, ticket.tenant
        number = sum(band.waiting_of(tenant) for band in self._bands)
        taken = self._bytes_of.get(tenant, 0) + ticket.size_bytes
        if without is not None and without.tenant == tenant:
            number, taken = number - 1, taken - without.size_bytes
        return number < settings.waiting_of_tenant and taken <= settings.waiting_bytes_of_tenant

    def _own_less_urgent(self, ticket: Ticket) -> Ticket | None:
        newest = (self._bands[rank].newest_of(ticket.tenant) for rank in range(_IDLE, ticket.rank, -1))
        return next((each for each in newest if each is not None), None)

    def _who_gives_way(self, ticket: Ticket) -> Ticket | None:
        band = self._bands[ticket.rank]
        under = band.waiting < self._places_of[ticket.rank]
        for rank in range(_IDLE, -1 if under else ticket.rank, -1):
            if rank != ticket.rank and self._bands[rank].waiting > self._places_of[rank]:
                return self._bands[rank].newest_of_longest()
        newest = band.newest_of_longest()
        if newest is None or band.waiting_of(newest.tenant) <= band.waiting_of(ticket.tenant) + 1:
            return None
        return newest

    @property
    def _places_of(self) -> tuple[int, int, int, int]:
        """Places in the queue that no other class takes, by class."""
        settings = self.settings
        normal, low = (int(share * settings.waiting) for share in (settings.normal_share, settings.low_share))
        return settings.waiting - normal - low, normal, low, 0

    def _refusal(self, ticket: Ticket, *, of_tenant: bool, now_s: float) -> Refusal:
        if of_tenant:
            band = self._bands[ticket.rank]
            ahead = band.waiting_tokens_of(ticket.tenant) * max(1, band.tenants_waiting)
        else:
            ahead = sum(band.tokens for band in self._bands[: ticket.rank + 1])
        return Refusal(of_tenant, self.rate.turned_away(ticket.tokens, ahead, now_s))
