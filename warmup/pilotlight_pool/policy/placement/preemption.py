"""Which lease gives way when another is wanted more urgently: idle, then batch, then lent; never interactive.

    order  victim                                   for whom
    0      idle lease (nothing in flight), any      anybody; batch takes idle batch leases only
    1      batch lease on its way or at work        interactive and normal wishes, unless the victim's tenant is
                                                    within its share and the wish's is not
    2      lent: a lease on its way or at work      a wish of a tenant that used clearly less of its share lately
           of a tenant beyond its share
    never  a lease of a tenant within its share

A tenant's share is what the weights of the tenants present give it of the slots. It is beyond it when it holds more
than that now, or did as a mean of the last minutes (`fairness.mean_slots`); what it holds beyond was lent to it. An
interactive lease is lent only where its tenant holds more than one slot, or the mean says so: interactive standing is
kept for the share, so a flood cannot make itself unpreemptable by calling itself interactive.

Means are compared as fractions of the shares (max-min fairness). So a tenant that uses little may burst over its share
at a flood's expense, and not the other way round; two floods have nearly the same fraction, and neither preempts the
other. A lease on its way loses the wait alone, one at work resumes token-exactly elsewhere. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pilotlight_pool.policy.leases.lease_terms import PRIORITY_RANK, LeaseWish
from pilotlight_pool.policy.leases.ledger import Lease
from pilotlight_protocol.leases import LeaseState, Priority

_CLEARLY = 0.95


@dataclass(frozen=True, slots=True)
class TenantUse:
    """`share_slots`: what is the tenant's by right. `held_slots`: now. `mean_slots`: lately (fairness.mean_slots)."""

    share_slots: float
    held_slots: float
    mean_slots: float

    @property
    def relative(self) -> float:
        """Mean use as a fraction of the share."""
        return self.mean_slots / self.share_slots

    @property
    def beyond_share(self) -> bool:
        """True if it holds more than its share now, or did lately: what it has is lent."""
        return self.held_slots > self.share_slots or self.relative > 1.0

    @property
    def interactive_is_lent(self) -> bool:
        """The same for interactive leases: one slot may be held by any tenant whose mean is within its share."""
        return self.held_slots > max(1.0, self.share_slots) or self.relative > 1.0


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that holds a slot, or those of one tenant that share it. `placing`: its engine is not ready yet.
    `since_s`: when it came to be what it is. `part`: of the slot, which tenants with adapters share."""

    lease_id: str
    slot_id: str
    tenant: str
    priority: Priority
    placing: bool
    idle: bool
    since_s: float
    part: float = 1.0


def held_on(leases: Sequence[Lease]) -> list[HeldLease]:
    """The leases that share a slot, its holder first, as one for each tenant."""
    tenants: dict[str, list[Lease]] = {}
    for lease in leases:
        tenants.setdefault(lease.wish.tenant, []).append(lease)
    return [replace(held_by(own), part=1.0 / len(tenants)) for own in tenants.values()]


def held_by(leases: Sequence[Lease]) -> HeldLease:
    """What leases of a tenant that share a slot are to others: one lease, idle only when all of them are, and the most
    urgent of them."""
    holder, wish = leases[0], leases[0].wish
    idle = all(lease.state is LeaseState.IDLE for lease in leases)
    since_s = max(lease.since_s for lease in leases) if idle else holder.since_s
    placing = holder.state is LeaseState.PLACING
    priority = min((lease.wish.priority for lease in leases), key=PRIORITY_RANK.__getitem__)
    return HeldLease(wish.lease_id, holder.slot_id or "", wish.tenant, priority, placing, idle, since_s)


@dataclass(frozen=True, slots=True)
class Victim:
    """`loss_s` grows with what taking the slot costs: a wait, that of the holder's next request, a resume after so long
    a run.

    `reason` is for both holders and names nobody; `detail` is the log's.
    """

    lease: HeldLease
    order: int
    loss_s: float
    reason: str
    detail: str


def uses(
    weights: Mapping[str, float], held: Sequence[HeldLease], mean_slots: Mapping[str, float], slot_count: int
) -> dict[str, TenantUse]:
    """Every tenant in `weights`: those present, with their fair-queueing weights."""
    total = sum(weights.values())
    held_slots: defaultdict[str, float] = defaultdict(float)
    for lease in held:
        held_slots[lease.tenant] += lease.part
    return {
        tenant: TenantUse(
            share_slots=slot_count * weight / total,
            held_slots=held_slots[tenant],
            mean_slots=mean_slots.get(tenant, 0.0),
        )
        for tenant, weight in weights.items()
    }


def victims(
    wish: LeaseWish, held: Sequence[HeldLease], tenants: Mapping[str, TenantUse], now_s: float
) -> dict[str, Victim]:
    """The leases that may be preempted for the wish now, by slot: those of the lowest order; empty: it has to wait.

    Of a slot that tenants share each one's must be a victim: nobody loses an engine because a neighbour uses too much.
    """
    by_slot: dict[str, list[Victim | None]] = {}
    for lease in held:
        by_slot.setdefault(lease.slot_id, []).append(_victim(wish, lease, tenants, now_s))
    found = [max(filter(None, each), key=_cost) for each in by_slot.values() if None not in each]
    lowest = min((victim.order for victim in found), default=0)
    return {victim.lease.slot_id: victim for victim in found if victim.order == lowest}


def _cost(victim: Victim) -> tuple[int, float]:
    return victim.order, victim.loss_s


def _victim(wish: LeaseWish, lease: HeldLease, tenants: Mapping[str, TenantUse], now_s: float) -> Victim | None:
    held_s = now_s - lease.since_s
    what = "on its way" if lease.placing else "running"
    if lease.idle:
        if wish.priority == "batch" and lease.priority != "batch":
            return None
        # Who had work a moment ago will have some in a moment.
        return Victim(
            lease, 0, 1.0 / (1.0 + held_s), "it is idle", f"lease {lease.lease_id} has been idle for {held_s:.1f} s"
        )
    if wish.priority == "batch":
        return None
    loss_s = 0.0 if lease.placing else held_s
    theirs, mine = tenants[lease.tenant], tenants[wish.tenant]
    if lease.priority == "batch" and (lease.tenant == wish.tenant or theirs.beyond_share or not mine.beyond_share):
        detail = f"lease {lease.lease_id} is batch work, {what} for {held_s:.1f} s"
        return Victim(lease, 1, loss_s, "it is batch work", detail)
    lent = theirs.interactive_is_lent if lease.priority == "interactive" else theirs.beyond_share
    if lease.tenant == wish.tenant or not lent:
        return None
    if mine.relative >= _CLEARLY * theirs.relative:
        return None
    return Victim(
        lease,
        2,
        loss_s,
        "its tenant uses more than its share",
        f"lease {lease.lease_id} was lent: {lease.tenant} {_holding(theirs)}, "
        f"and {wish.tenant} used {mine.relative:.0%} of its own lately",
    )


def _holding(use: TenantUse) -> str:
    return f"holds {use.held_slots:g} slots, lately {use.mean_slots:.1f}, its share is {use.share_slots:.1f}"
