"""How long a slot's driver waits for its agent, and between failures."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_pool.policy.placement.boot_backoff import ENGINES
from pilotlight_protocol.back_off import BackOff


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """Deadlines of an agent's commands, and the back-off of a slot in which the engines of several models failed in a
    row, which doubles up to its end. One model that fails backs off alone (policy.boot_backoff)."""

    boot_deadline_s: float = 300.0
    swap_deadline_s: float = 60.0
    drain_deadline_s: float = 5.0
    sleep_deadline_s: float = 60.0
    back_off: BackOff = ENGINES
