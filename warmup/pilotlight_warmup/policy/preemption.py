"""Which lease gives way when another is wanted more urgently: idle, then batch, then lent; never interactive.

    order  victim                                   for whom
    0      idle lease (nothing in flight), any      anybody; batch takes idle batch leases only
    1      batch lease at work                      interactive and normal wishes
    2      lent: a normal lease at work beyond      a wish of a tenant that used clearly less
           its tenant's share of the slots          lately, and less than its share
    never  interactive at work; normal within share

A tenant's share is what the weights of the tenants seen lately give it of the slots. What it holds beyond that, now or
as a mean of the last minute (`fairness.mean_slots`), was lent to it; it is taken back for a tenant whose mean, relative
to its share, is clearly the lower one. So a tenant that uses little may burst over its share at a flood's expense, and
not the other way round. Interactive standing is kept for the share: what a tenant takes beyond it is granted as normal
(`granted_priority`), so a flood cannot make itself unpreemptable by calling itself interactive.

A preempted lease at work resumes token-exactly elsewhere. Every rule needs a clearly stronger claim, so two tenants
cannot preempt each other in turn; lease ends even out what is left. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .lease_terms import LeaseWish, Priority

_CLEARLY = 0.8


@dataclass(frozen=True, slots=True)
class TenantUse:
    """`share_slots`: what is the tenant's by right. `held_slots`: now. `mean_slots`: lately (fairness.mean_slots)."""

    share_slots: float
    held_slots: int
    mean_slots: float

    @property
    def relative(self) -> float:
        """Mean use as a fraction of the share."""
        return self.mean_slots / self.share_slots

    @property
    def beyond_share(self) -> bool:
        """True if it holds more than its share now, or did lately: what it has is lent."""
        return self.held_slots > self.share_slots or self.relative > 1.0


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that holds a slot. `priority` is the granted one; `since_s` when it became ready or idle."""

    lease_id: str
    slot_id: str
    tenant: str
    priority: Priority
    idle: bool
    since_s: float


@dataclass(frozen=True, slots=True)
class Victim:
    lease: HeldLease
    order: int
    reason: str


def uses(
    weights: Mapping[str, float], held: Sequence[HeldLease], mean_slots: Mapping[str, float], slot_count: int
) -> dict[str, TenantUse]:
    """Every tenant in `weights`: those seen lately, with their fair-queueing weights."""
    total = sum(weights.values())
    return {
        tenant: TenantUse(
            share_slots=slot_count * weight / total,
            held_slots=sum(lease.tenant == tenant for lease in held),
            mean_slots=mean_slots.get(tenant, 0.0),
        )
        for tenant, weight in weights.items()
    }


def granted_priority(wish: LeaseWish, use: TenantUse) -> tuple[Priority, str]:
    """The priority a lease is granted with, and why."""
    full = use.held_slots >= max(1.0, use.share_slots)
    if wish.priority == "interactive" and (full or use.beyond_share):
        return "normal", f"{wish.tenant} {_holding(use)}: lent as normal"
    return wish.priority, f"asked for {wish.priority}"


def victims(
    wish: LeaseWish, held: Sequence[HeldLease], tenants: Mapping[str, TenantUse], now_s: float
) -> tuple[Victim, ...]:
    """Every lease that may be preempted for the wish, the one to take first in front; empty: it has to wait.

    Among equals the lease that has held its slot for the shortest time goes first: it loses the least.
    """
    found = [victim for lease in held if (victim := _victim(wish, lease, tenants, now_s)) is not None]
    return tuple(sorted(found, key=lambda v: (v.order, -v.lease.since_s, v.lease.lease_id)))


def _victim(wish: LeaseWish, lease: HeldLease, tenants: Mapping[str, TenantUse], now_s: float) -> Victim | None:
    held_s = now_s - lease.since_s
    if wish.priority == "batch":
        if lease.idle and lease.priority == "batch":
            return Victim(lease, 0, f"batch lease {lease.lease_id} has been idle for {held_s:.1f} s")
        return None
    if lease.idle:
        return Victim(lease, 0, f"lease {lease.lease_id} has been idle for {held_s:.1f} s")
    if lease.priority == "batch":
        return Victim(lease, 1, f"lease {lease.lease_id} is batch work, running for {held_s:.1f} s")
    theirs, mine = tenants[lease.tenant], tenants[wish.tenant]
    if lease.priority == "interactive" or lease.tenant == wish.tenant or not theirs.beyond_share:
        return None
    if mine.relative >= min(1.0, _CLEARLY * theirs.relative):
        return None
    return Victim(
        lease,
        2,
        f"lease {lease.lease_id} was lent: {lease.tenant} {_holding(theirs)}, "
        f"and {wish.tenant} used {mine.relative:.0%} of its own lately",
    )


def _holding(use: TenantUse) -> str:
    return f"holds {use.held_slots} slots, lately {use.mean_slots:.1f}, its share is {use.share_slots:.1f}"
