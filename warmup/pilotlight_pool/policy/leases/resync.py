"""The ledger and what an agent reports, brought together: after a coordinator's restart, after an agent's absence.

    the ledger has on the slot     the agent reports      then
    nothing, the lease is unknown  that it serves it      adopted: agents hold the truth about grants
    the same lease, serving        that it serves it      kept
    a lease                        others, or nothing     lost, as if its engine had died
    (the lease is elsewhere)       that it serves it      whoever took it last keeps it, on the other slot it is stray
    (the lease waits, or is over)  that it serves it      stray: the caller has it revoked

Nothing is lost or doubled: a lease is known to some agent, or waits here, or its holder is told. Queued leases are
known to no agent; after a restart their holders ask again. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pilotlight_pool.policy.leases.lease_lifecycle import HOLDS_SLOT, LeaseEvent, next_state
from pilotlight_pool.policy.leases.ledger import Lease, Ledger, Slot, without_lease
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_protocol.leases import SERVING, LeaseState


@dataclass(frozen=True, slots=True)
class Resync:
    """`adopted`: leases that are from now on what the report says; `lost`: leases that lost their slot, with the state
    they had; `stray`: slots that serve a lease which is not theirs, and which the caller revokes there."""

    ledger: Ledger
    adopted: tuple[str, ...] = ()
    lost: tuple[tuple[str, LeaseState], ...] = ()
    stray: tuple[str, ...] = ()


def resync(ledger: Ledger, reported: Iterable[tuple[Slot, Sequence[Lease]]], given_back: Iterable[str] = ()) -> Resync:
    """Take slots over as they are reported, each with the leases it serves, which stand in a serving state on it.

    `given_back`: leases whose holders were done before this coordinator knew of them.
    """
    leases, slots = dict(ledger.leases), dict(ledger.slots)
    adopted: list[str] = []
    lost: list[tuple[str, LeaseState]] = []
    stray: list[str] = []
    refused = frozenset(given_back)
    for slot, served in reported:
        known = slots.get(slot.slot_id)
        told = {lease.wish.lease_id for lease in served}
        for lease_id in known.lease_ids if known is not None else ():
            if lease_id not in told:
                lost.append((lease_id, leases[lease_id].state))
                leases[lease_id] = _slot_lost(leases[lease_id], slot.since_s)
        kept: list[str] = []
        for lease in served:
            lease_id = lease.wish.lease_id
            mine = leases.get(lease_id)
            if lease_id in refused or not _keeps(mine, lease):
                stray.append(slot.slot_id)
                continue
            kept.append(lease_id)
            if mine is not None and mine.slot_id == slot.slot_id:
                leases[lease_id] = replace(mine, state=lease.state)
                continue
            if mine is not None and mine.slot_id is not None:
                stray.append(mine.slot_id)
                slots[mine.slot_id] = _strayed(without_lease(leases, slots[mine.slot_id], lease_id))
            adopted.append(lease_id)
            leases[lease_id] = lease
        slots[slot.slot_id] = _strayed(replace(slot, lease_id=next(iter(kept), None), sharers=tuple(kept[1:])))
    return Resync(Ledger(leases, slots), tuple(adopted), tuple(lost), tuple(dict.fromkeys(stray)))


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
        for lease_id in slots[slot_id].lease_ids:
            if leases[lease_id].state not in states:
                continue
            lost.append((lease_id, leases[lease_id].state))
            leases[lease_id] = _slot_lost(leases[lease_id], now_s)
            slots[slot_id] = without_lease(leases, slots[slot_id], lease_id)
    return Resync(Ledger(leases, slots), lost=tuple(lost))


def _keeps(mine: Lease | None, served: Lease) -> bool:
    """Whether the reported claim to a lease stands."""
    if mine is None or (mine.state in SERVING and mine.slot_id == served.slot_id):
        return True
    return mine.state in SERVING and served.since_s > mine.since_s


def _slot_lost(lease: Lease, now_s: float) -> Lease:
    state = next_state(lease.state, LeaseEvent.ENGINE_LOST, lease.wish.lease_id)
    return replace(lease, state=state, since_s=now_s, slot_id=None, tries=lease.tries + 1)


def _strayed(slot: Slot) -> Slot:
    """A slot that serves nobody who may be served has yet to be drained."""
    drains = slot.state is SlotState.LEASED and slot.lease_id is None
    return replace(slot, state=SlotState.DRAINING) if drains else slot
