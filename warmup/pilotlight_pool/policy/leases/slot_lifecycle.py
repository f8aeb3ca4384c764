"""The life cycle of a slot: what may happen to its awake engine, and in which order.

    state           event        next             who reports it
    empty           boot         booting          coordinator: zygote fork or cold boot
                    wake         waking           coordinator: a sleeping engine of this slot (CUDA)
    booting         booted       idle             agent: the engine has generated a token
    waking          woken        idle             agent
    idle            lease        leased           coordinator: the holder gets endpoint and secret
                    swap         swapping         coordinator: other weights of the same fingerprint
                    sleep        falling_asleep   coordinator: make room, keep the process (CUDA)
                    stop         stopping         coordinator: make room
    leased          drain        draining         release, preemption or expiry: refuse new work, let the rest end
    draining        drained      idle             agent: nothing in flight, prefix cache reset
    swapping        swapped      idle             agent: new weights checked
                    swap_refused idle             agent: nothing was touched, the old weights are served
                    swap_failed  failed           agent: a half-swapped engine never answers
    falling_asleep  slept        empty            agent
    stopping        stopped      empty            agent: the process is gone and its memory is free
    failed          stop         stopping         coordinator: kill what is left, then the slot can boot afresh
    any with an     died         failed           agent: the process or its socket is gone; one that fails or is
      engine                                      stopped is gone already

Leased is entered from idle alone, so no engine that is booting, swapping or waking can ever answer a holder.
Pure: this module knows names, not processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class SlotState(StrEnum):
    EMPTY = "empty"
    BOOTING = "booting"
    WAKING = "waking"
    IDLE = "idle"
    LEASED = "leased"
    DRAINING = "draining"
    SWAPPING = "swapping"
    FALLING_ASLEEP = "falling_asleep"
    STOPPING = "stopping"
    FAILED = "failed"


class SlotEvent(StrEnum):
    BOOT = "boot"
    BOOTED = "booted"
    WAKE = "wake"
    WOKEN = "woken"
    LEASE = "lease"
    DRAIN = "drain"
    DRAINED = "drained"
    SWAP = "swap"
    SWAPPED = "swapped"
    SWAP_FAILED = "swap_failed"
    SWAP_REFUSED = "swap_refused"
    SLEEP = "sleep"
    SLEPT = "slept"
    STOP = "stop"
    STOPPED = "stopped"
    DIED = "died"


_S, _E = SlotState, SlotEvent

TRANSITIONS: Mapping[SlotState, Mapping[SlotEvent, SlotState]] = MappingProxyType(
    {
        _S.EMPTY: {_E.BOOT: _S.BOOTING, _E.WAKE: _S.WAKING},
        _S.BOOTING: {_E.BOOTED: _S.IDLE, _E.DIED: _S.FAILED},
        _S.WAKING: {_E.WOKEN: _S.IDLE, _E.DIED: _S.FAILED},
        _S.IDLE: {
            _E.LEASE: _S.LEASED,
            _E.SWAP: _S.SWAPPING,
            _E.SLEEP: _S.FALLING_ASLEEP,
            _E.STOP: _S.STOPPING,
            _E.DIED: _S.FAILED,
        },
        _S.LEASED: {_E.DRAIN: _S.DRAINING, _E.DIED: _S.FAILED},
        _S.DRAINING: {_E.DRAINED: _S.IDLE, _E.DIED: _S.FAILED},
        _S.SWAPPING: {
            _E.SWAPPED: _S.IDLE,
            _E.SWAP_REFUSED: _S.IDLE,
            _E.SWAP_FAILED: _S.FAILED,
            _E.DIED: _S.FAILED,
        },
        _S.FALLING_ASLEEP: {_E.SLEPT: _S.EMPTY, _E.DIED: _S.FAILED},
        _S.STOPPING: {_E.STOPPED: _S.EMPTY},
        _S.FAILED: {_E.STOP: _S.STOPPING},
    }
)


class LifeCycleViolation(Exception):
    """Our bug, or a report that came too late: the event is not in the table. Nothing was changed.

    An agent's late report (say `booted` for a slot that was stopped meanwhile) is dropped by whoever catches this.
    """

    def __init__(self, subject: str, state: str, event: str, allowed: str) -> None:
        super().__init__(f"{subject} is {state}: {event!r} cannot happen now, only {allowed or 'nothing'}")
        self.state = state
        self.event = event


def next_state(state: SlotState, event: SlotEvent, slot_id: str = "slot") -> SlotState:
    """The state after `event`; raises LifeCycleViolation where the table has none."""
    following = TRANSITIONS[state].get(event)
    if following is None:
        raise LifeCycleViolation(f"slot {slot_id}", state, event, ", ".join(TRANSITIONS[state]))
    return following
