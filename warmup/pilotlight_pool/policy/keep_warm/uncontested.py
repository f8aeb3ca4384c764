"""Which engines stay after their keep-alive because nobody else wants their slots.

Keep-alive weighs slot-seconds against boots. A slot-second that nobody else would use costs idle power and memory, no
more, and what is stopped there for nobody's sake is what its own endpoint then waits for.

    wanted      for each fingerprint, the engines that it had work for within the last `wanted_s`, beyond those it has
    contested   as many slots as are wanted beyond the empty ones: so many overdue engines go, used longest ago first
    the others  stay, until they have been idle for `uncontested_s`

Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec


@dataclass(frozen=True, slots=True)
class Demand:
    """For a `k`-th engine of a fingerprint, counted from 1. `ended_s`: when the last of it did; None: there is some."""

    fingerprint: str
    k: int
    ended_s: float | None


@dataclass(frozen=True, slots=True)
class Overdue:
    """An idle engine whose keep-alive is over. `used_s`: when its model was last used."""

    slot_id: str
    idle_s: float
    used_s: float


def contested_slots(
    spec: KeepAliveSpec, demands: Iterable[Demand], engines: Mapping[str, int], empty_slots: int, now_s: float
) -> int:
    """How many slots are wanted that are not empty. `engines`: of each fingerprint, in whatever state."""
    wanted: Counter[str] = Counter()
    for demand in demands:
        if demand.ended_s is None or now_s - demand.ended_s < spec.standard_keep_alive_s:
            wanted[demand.fingerprint] = max(wanted[demand.fingerprint], demand.k)
    short = sum(max(0, most - engines.get(fingerprint, 0)) for fingerprint, most in wanted.items())
    return max(0, short - empty_slots)


def to_stop(spec: KeepAliveSpec, overdue: Sequence[Overdue], contested: int) -> dict[str, str]:
    """The slots whose engines go, each with the reason."""
    most_s = spec.uncontested_s if spec.price_slot_s > 0.0 else 0.0
    why = f"an idle engine has {most_s:g} s in a slot that nobody else wants"
    stopped = {each.slot_id: why for each in overdue if each.idle_s >= most_s}
    left = [each for each in overdue if each.slot_id not in stopped]
    others = sorted(left, key=lambda each: (each.used_s, each.slot_id))
    why = f"{contested} slots are wanted for others"
    return stopped | {each.slot_id: why for each in others[: max(0, contested - len(stopped))]}
