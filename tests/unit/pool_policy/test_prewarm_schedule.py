"""Cron schedules."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from pilotlight_pool.policy.keep_warm import prewarm_schedule
from pilotlight_pool.policy.keep_warm.prewarm_schedule import InvalidSchedule


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_a_schedule_is_warm_from_a_boot_early_until_its_window_is_over() -> None:
    schedules = prewarm_schedule.parse("cron 55 8 * * 1-5 for 30m")
    monday = "2026-11-23T"
    before = prewarm_schedule.decide(schedules, 29.0, at(monday + "08:54:00"))
    assert before is not None
    assert before.warm_until_s is None
    assert before.next_change_s == at(monday + "08:54:31")
    for moment in ("08:54:31", "08:55:00", "09:24:59"):
        within = prewarm_schedule.decide(schedules, 29.0, at(monday + moment))
        assert within is not None
        assert within.warm_until_s == at(monday + "09:25:00"), moment
    over = prewarm_schedule.decide(schedules, 29.0, at(monday + "09:25:00"))
    assert over is not None
    assert (over.warm_until_s, over.next_change_s) == (None, at("2026-11-24T08:54:31"))


def test_time_zones_weekends_and_several_schedules() -> None:
    schedules = prewarm_schedule.parse(
        "cron 0 9 * * 1-5 for 1h in Europe/Berlin; cron 30 9 * * * for 2h in Europe/Berlin"
    )
    summer = prewarm_schedule.decide(schedules, 0.0, at("2026-07-01T07:45:00"))
    assert summer is not None
    assert summer.warm_until_s == at("2026-07-01T11:30:00", "Europe/Berlin")
    saturday = prewarm_schedule.decide(schedules, 0.0, at("2026-11-28T09:15:00", "Europe/Berlin"))
    assert saturday is not None
    assert saturday.warm_until_s is None
    assert prewarm_schedule.decide((), 29.0, 0.0) is None


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("every morning", 'write "cron 55 8'),
        ("cron 55 8 * *", "is not understood"),
        ("cron 61 8 * * *", "61"),
        ("cron 0 8 * * * for soon", "soon is no duration"),
        ("cron 0 8 * * * for 48h", "at most 24h"),
        ("cron 0 8 * * * in Mars/Olympus", "Mars/Olympus"),
    ],
)
def test_a_schedule_that_is_not_understood_says_how_to_write_it(annotation: str, message: str) -> None:
    with pytest.raises(InvalidSchedule, match=message) as caught:
        prewarm_schedule.parse(annotation)
    assert "pilotlight.dev/prewarm" in str(caught.value)
