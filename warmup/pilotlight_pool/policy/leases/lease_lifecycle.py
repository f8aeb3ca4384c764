"""The life cycle of a lease, from the wish to its end.

    state      event        next        when
    queued     place        placing     a slot is reserved for it
               refuse       failed      no slot can ever hold it, or its deadline cannot be met
    placing    ready        active      the slot's engine holds its weights; the holder gets endpoint and secret
               displace     queued      its slot is wanted more urgently, and nobody has seen its engine yet
               engine_lost  queued      the boot or swap failed: another try, elsewhere
               refuse       failed      out of tries, or the deadline passed meanwhile
    active     work_ended   idle        nothing in flight; heartbeats go on
               preempt      preempted   its slot is wanted more urgently (batch or lent leases only)
               engine_lost  queued      the engine died under work: the holder resumes from the tokens already sent
    idle       work_began   active
               preempt      preempted   the usual case: an idle lease gives way
               engine_lost  preempted   nothing was in flight, so nothing is to be resumed
    any above  release      released    the holder is done
               expire       expired     its heartbeats stopped
    released, expired, failed            the end: nothing can happen any more

A lease has a slot in placing, active and idle, and in no other state (`HOLDS_SLOT`; the ledger keeps that true).
Pure: this module knows names, not tenants or slots.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from pilotlight_pool.policy.leases.slot_lifecycle import LifeCycleViolation
from pilotlight_protocol.leases import LeaseState


class LeaseEvent(StrEnum):
    PLACE = "place"
    READY = "ready"
    WORK_BEGAN = "work_began"
    WORK_ENDED = "work_ended"
    DISPLACE = "displace"
    PREEMPT = "preempt"
    ENGINE_LOST = "engine_lost"
    REFUSE = "refuse"
    RELEASE = "release"
    EXPIRE = "expire"


_S, _E = LeaseState, LeaseEvent
_ENDS = {_E.RELEASE: _S.RELEASED, _E.EXPIRE: _S.EXPIRED}

TRANSITIONS: Mapping[LeaseState, Mapping[LeaseEvent, LeaseState]] = MappingProxyType(
    {
        _S.QUEUED: {_E.PLACE: _S.PLACING, _E.REFUSE: _S.FAILED, **_ENDS},
        _S.PLACING: {
            _E.READY: _S.ACTIVE,
            _E.DISPLACE: _S.QUEUED,
            _E.ENGINE_LOST: _S.QUEUED,
            _E.REFUSE: _S.FAILED,
            **_ENDS,
        },
        _S.ACTIVE: {
            _E.WORK_ENDED: _S.IDLE,
            _E.PREEMPT: _S.PREEMPTED,
            _E.ENGINE_LOST: _S.QUEUED,
            **_ENDS,
        },
        _S.IDLE: {_E.WORK_BEGAN: _S.ACTIVE, _E.PREEMPT: _S.PREEMPTED, _E.ENGINE_LOST: _S.PREEMPTED, **_ENDS},
        _S.PREEMPTED: _ENDS,
        _S.RELEASED: {},
        _S.EXPIRED: {},
        _S.FAILED: {},
    }
)

HOLDS_SLOT = frozenset({_S.PLACING, _S.ACTIVE, _S.IDLE})
ENDED = frozenset({_S.RELEASED, _S.EXPIRED, _S.FAILED})


def next_state(state: LeaseState, event: LeaseEvent, lease_id: str = "lease") -> LeaseState:
    """The state after `event`; raises LifeCycleViolation where the table has none."""
    following = TRANSITIONS[state].get(event)
    if following is None:
        raise LifeCycleViolation(f"lease {lease_id}", state, event, ", ".join(TRANSITIONS[state]))
    return following
