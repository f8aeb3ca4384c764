"""The ledger and what an agent reports, brought together: after a coordinator's restart, after an agent's absence.

    the ledger has on the slot     the agent reports      then
    nothing, the lease is unknown  that it serves it      adopted: agents hold the truth about grants
    the same lease, serving        that it serves it      kept
    a lease                        another, or nothing    lost, as if its engine had died
    (the lease is elsewhere)       that it serves it      whoever took it last keeps it, the other slot is stray
    (the lease waits, or is over)  that it serves it      stray: the caller has it revoked

Nothing is lost or doubled: a lease is known to some agent, or waits here, or its holder is told. Queued leases are
known to no agent; after a restart their holders ask again. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pilotlight_pool.policy.leases.lease_lifecycle import HOLDS_SLOT, LeaseEvent, LeaseState, next_state
from pilotlight_pool.policy.leases.ledger import Lease, Ledger, Slot
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState

_SERVING = frozenset({LeaseState.ACTIVE, LeaseState.IDLE})


@dataclass(frozen=True, slots=True)
class Resync:
    """`adopted`: leases that are from now on what the report says; `lost`: leases that lost their slot, with the state
    they had; `stray`: slots that serve a lease which is not theirs, which the caller drains."""

    ledger: Ledger
    adopted: tuple[str, ...] = ()
    lost: tuple[tuple[str, LeaseState], ...] = ()
    stray: tuple[str, ...] = ()


def resync(ledger: Ledger, reported: Iterable[tuple[Slot, Lease | None]], given_back: Iterable[str] = ()) -> Resync:
    """Take slots over as they are reported, each with the lease it serves, which stands in a serving state on it.

    `given_back`: leases whose holders were done before this coordinator knew of them.
    """
    leases, slots = dict(ledger.leases), dict(ledger.slots)
    adopted: list[str] = []
    lost: list[tuple[str, LeaseState]] = []
    stray: list[str] = []
    refused = frozenset(given_back)
    for slot, served in reported:
        known = slots.get(slot.slot_id)
        if known is not None and known.lease_id is not None and known.lease_id != slot.lease_id:
            lost.append((known.lease_id, leases[known.lease_id].state))
            leases[known.lease_id] = _unseated(leases[known.lease_id], slot.since_s)
        slots[slot.slot_id] = slot
        if slot.lease_id is None:
            continue
        mine = leases.get(slot.lease_id)
        if served is None or slot.lease_id in refused or not _keeps(mine, served):
            stray.append(slot.slot_id)
            slots[slot.slot_id] = _strayed(slot)
        elif mine is not None and mine.slot_id == slot.slot_id:
            leases[slot.lease_id] = replace(mine, state=served.state)
        else:
            if mine is not None and mine.slot_id is not None:
                stray.append(mine.slot_id)
                slots[mine.slot_id] = _strayed(slots[mine.slot_id])
            adopted.append(slot.lease_id)
            leases[slot.lease_id] = served
    return Resync(Ledger(leases, slots), tuple(adopted), tuple(lost), tuple(stray))


def unplace(ledger: Ledger, slot_ids: Iterable[str], now_s: float) -> Resync:
    """These slots cannot be made ready now: what was being placed on them waits again. What they serve stays."""
    return _without(ledger, slot_ids, now_s, frozenset({LeaseState.PLACING}))


def drop(ledger: Ledger, slot_ids: Iterable[str], now_s: float) -> Resync:
    """These slots are gone for good, and whatever they held is lost."""
    gone = tuple(slot_ids)
    after = _without(ledger, gone, now_s, HOLDS_SLOT)
    left: Mapping[str, Slot] = {key: slot for key, slot in after.ledger.slots.items() if key not in gone}
    return replace(after, ledger=replace(after.ledger, slots=left))


def _without(ledger: Ledger, slot_ids: Iterable[str], now_s: float, states: frozenset[LeaseState]) -> Resync:
    leases, slots = dict(ledger.leases), dict(ledger.slots)
    lost: list[tuple[str, LeaseState]] = []
    for slot_id in slot_ids:
        slot = slots[slot_id]
        if slot.lease_id is None or leases[slot.lease_id].state not in states:
            continue
        lost.append((slot.lease_id, leases[slot.lease_id].state))
        leases[slot.lease_id] = _unseated(leases[slot.lease_id], now_s)
        slots[slot_id] = replace(slot, lease_id=None)
    return Resync(Ledger(leases, slots), lost=tuple(lost))


def _keeps(mine: Lease | None, served: Lease) -> bool:
    """Whether the reported claim to a lease stands."""
    if mine is None or (mine.state in _SERVING and mine.slot_id == served.slot_id):
        return True
    return mine.state in _SERVING and served.since_s > mine.since_s


def _unseated(lease: Lease, now_s: float) -> Lease:
    state = next_state(lease.state, LeaseEvent.ENGINE_LOST, lease.wish.lease_id)
    return replace(lease, state=state, since_s=now_s, slot_id=None, tries=lease.tries + 1)


def _strayed(slot: Slot) -> Slot:
    state = SlotState.DRAINING if slot.state is SlotState.LEASED else slot.state
    return replace(slot, lease_id=None, state=state)
