"""Slots come and go with their agents: what becomes of the pool then.

    take_over    slots as their agent reports them, each with the leases it serves
    set_absent   slots that cannot be used now
    drop         slots that are gone, and their engines with them

Says so to the pool, which tells whoever is concerned. Must not decide who belongs to it (policy.presence does).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pilotlight_pool.coordinator.lease_record import LeaseRecord
from pilotlight_pool.coordinator.pool import Pool
from pilotlight_pool.engine_orders import SlotFacts
from pilotlight_pool.policy.leases import resync
from pilotlight_pool.policy.leases.ledger import Lease, Slot
from pilotlight_protocol.errors import PilotlightError, Unavailable

Reported = tuple[Slot, Sequence[tuple[Lease, LeaseRecord]]]
"""A slot, and the leases that it serves."""


def take_over(pool: Pool, facts: Mapping[str, SlotFacts], reported: Sequence[Reported]) -> tuple[str, ...]:
    """Returns the slots that serve a lease which is not theirs (any more): it is revoked there."""
    pool.models.forget_refusals()
    claims = [(slot, [lease for lease, _ in served]) for slot, served in reported]
    over = [lease.wish.lease_id for _, leases in claims for lease in leases if pool.is_given_back(lease)]
    after = resync.resync(pool.ledger, claims, over)
    for lease, record in (one for _, served in reported for one in served):
        if lease.wish.lease_id in after.adopted:
            pool.records[lease.wish.lease_id] = record
    pool.slots.update(facts)
    for slot, _ in reported:
        pool.absent.pop(slot.slot_id, None)
    pool.resynced(after, Unavailable("its agent serves it no longer"))
    return after.stray


def set_absent(pool: Pool, slot_ids: Iterable[str], reason: str) -> None:
    """What was being placed on them waits again; what they serve goes on."""
    ids = [slot_id for slot_id in slot_ids if slot_id in pool.ledger.slots]
    pool.absent.update(dict.fromkeys(ids, reason))
    pool.resynced(resync.unplace(pool.ledger, ids, pool.now_s()), Unavailable(reason))


def drop(pool: Pool, slot_ids: Iterable[str], error: PilotlightError) -> None:
    ids = [slot_id for slot_id in slot_ids if slot_id in pool.ledger.slots]
    after = resync.drop(pool.ledger, ids, pool.now_s())
    for slot_id in ids:
        pool.slots.pop(slot_id, None)
        pool.absent.pop(slot_id, None)
    pool.resynced(after, error)
