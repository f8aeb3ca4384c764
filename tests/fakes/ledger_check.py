"""What a ledger promises after every step, looked at: tests of everything that moves leases and slots ask it."""

from __future__ import annotations

import itertools

from pilotlight_pool.policy.leases.isolation import SEVERAL
from pilotlight_pool.policy.leases.lease_lifecycle import HOLDS_SLOT
from pilotlight_pool.policy.leases.ledger import Ledger, Slot
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_protocol.leases import SERVING


def check(ledger: Ledger) -> tuple[str, ...]:
    """What is wrong with the ledger: one sentence per broken promise, empty when all is well."""
    wrong: list[str] = []
    for lease_id, lease in ledger.leases.items():
        if (lease.state in HOLDS_SLOT) != (lease.slot_id is not None):
            wrong.append(f"lease {lease_id} is {lease.state} on slot {lease.slot_id}")
        if lease.slot_id is not None and ledger.slots[lease.slot_id].lease_ids.count(lease_id) != 1:
            wrong.append(f"lease {lease_id} names slot {lease.slot_id}, which names another")
    for slot_id, slot in ledger.slots.items():
        held = ledger.leases.get(slot.lease_id) if slot.lease_id is not None else None
        wrong += _wrong_sharers(ledger, slot)
        serving = held is not None and held.state in SERVING
        if (slot.state is SlotState.LEASED) != serving:
            wrong.append(f"slot {slot_id} is {slot.state} under lease {slot.lease_id}")
        if serving and held is not None and slot.engine is not None:
            if slot.engine.model != held.wish.model:
                wrong.append(f"slot {slot_id} serves lease {slot.lease_id} from another's weights")
            alone = held.wish.isolation == "shared" or slot.engine.tenant != SEVERAL
            if not alone or slot.engine.tenant not in {held.wish.tenant, SEVERAL}:
                wrong.append(f"slot {slot_id} breaks the isolation of lease {slot.lease_id}")
        if (slot.engine is None) != (slot.state is SlotState.EMPTY):
            wrong.append(f"slot {slot_id} is {slot.state} with engine {slot.engine}")
    return tuple(wrong)


def _wrong_sharers(ledger: Ledger, slot: Slot) -> list[str]:
    wrong: list[str] = []
    leases = {lease_id: ledger.leases.get(lease_id) for lease_id in slot.lease_ids}
    for lease_id, lease in leases.items():
        if lease is None or lease.slot_id != slot.slot_id:
            wrong.append(f"slot {slot.slot_id} names lease {lease_id}, which is elsewhere")
        elif lease.state in SERVING and slot.state is not SlotState.LEASED:
            wrong.append(f"slot {slot.slot_id} is {slot.state}, and lease {lease_id} on it {lease.state}")
    if slot.sharers and slot.lease_id is None:
        wrong.append(f"slot {slot.slot_id} has sharers and no holder")
    wishes = [lease.wish for lease in leases.values() if lease is not None]
    if not all(one.may_share_with(other) for one, other in itertools.combinations(wishes, 2)):
        wrong.append(f"slot {slot.slot_id} is shared by leases of several terms")
    return wrong
