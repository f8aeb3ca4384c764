"""Scheduled prewarm: the annotation `pilotlight.dev/prewarm: "cron 55 8 * * 1-5 for 30m in Europe/Berlin"`.

    cron MINUTE HOUR DAY MONTH WEEKDAY   when to begin (the usual five fields); required
    for DURATION                         how long to hold it warm: 90s, 30m, 2h; 15 minutes where absent
    in ZONE                              an IANA time zone; UTC where absent

Several schedules are separated by `;`. Times are Unix seconds. Pure: croniter and zoneinfo are given the time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterError, croniter

from pilotlight_protocol.leases import PREWARM_ANNOTATION

_FORM = re.compile(r"cron\s+(?P<cron>\S+(?:\s+\S+){4})(?:\s+for\s+(?P<hold>\S+))?(?:\s+in\s+(?P<zone>\S+))?")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S = 24 * 3600.0


class InvalidSchedule(ValueError):
    """The annotation is not understood; the message names it and shows a valid one."""


@dataclass(frozen=True, slots=True)
class PrewarmSchedule:
    cron: str
    hold_s: float
    zone: str


@dataclass(frozen=True, slots=True)
class PrewarmDecision:
    """`warm_until_s`: None while no schedule holds. `next_change_s`: when to ask again."""

    warm_until_s: float | None
    next_change_s: float
    reason: str


def parse(annotation: str) -> tuple[PrewarmSchedule, ...]:
    """The schedules of an annotation; raises InvalidSchedule."""
    return tuple(_parse_one(part.strip()) for part in annotation.split(";") if part.strip())


def decide(schedules: Sequence[PrewarmSchedule], boot_s: float, now_s: float) -> PrewarmDecision | None:
    """Whether to hold warm now, None without schedules. A window begins `boot_s` early, so that it begins ready."""
    warm_until_s: float | None = None
    changes: list[float] = []
    reason = "no schedule holds now"
    for schedule in schedules:
        zone = ZoneInfo(schedule.zone)
        due = datetime.fromtimestamp(now_s + boot_s, zone)
        began_s = croniter(schedule.cron, due + timedelta(seconds=1)).get_prev(datetime).timestamp()
        next_s = croniter(schedule.cron, due).get_next(datetime).timestamp()
        changes.append(next_s - boot_s)
        until_s = began_s + schedule.hold_s
        if now_s >= until_s:
            continue
        changes.append(until_s)
        if warm_until_s is None or until_s > warm_until_s:
            warm_until_s = until_s
            reason = f"cron {schedule.cron} in {schedule.zone}: warm for another {until_s - now_s:.0f} s"
    if not changes:
        return None
    return PrewarmDecision(warm_until_s, min(changes), reason)


def _parse_one(text: str) -> PrewarmSchedule:
    form = _FORM.fullmatch(text)
    if form is None:
        raise InvalidSchedule(
            f'{PREWARM_ANNOTATION}: "{text}" is not understood, write "cron 55 8 * * 1-5 for 30m in UTC"'
        )
    zone = form["zone"] or "UTC"
    try:
        ZoneInfo(zone)
        croniter(form["cron"], datetime.fromtimestamp(0.0, ZoneInfo("UTC")))
    except (ZoneInfoNotFoundError, ValueError, CroniterError) as error:
        raise InvalidSchedule(f'{PREWARM_ANNOTATION}: "{text}": {error}') from error
    return PrewarmSchedule(form["cron"], _duration_s(form["hold"] or "15m", text), zone)


def _duration_s(duration: str, text: str) -> float:
    number, unit = duration[:-1], duration[-1:]
    if not number.isdecimal() or unit not in _UNIT_S:
        raise InvalidSchedule(f'{PREWARM_ANNOTATION}: "{text}": {duration} is no duration, write 90s, 30m or 2h')
    hold_s = int(number) * _UNIT_S[unit]
    if not 0.0 < hold_s <= _LONGEST_S:
        raise InvalidSchedule(
            f'{PREWARM_ANNOTATION}: "{text}": a window lasts at most 24h; set minReplicas: 1 for always'
        )
    return hold_s
