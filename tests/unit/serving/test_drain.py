"""A drain told in time: what a server does after SIGTERM."""

from __future__ import annotations

import pytest

from pilotlight_serving.drain import DrainPhase, DrainSpec, decide

SPEC = DrainSpec(timeout_s=60, accept_s=5, quiet_s=0.5)
ACCEPT, REFUSE, EXIT, CUT = DrainPhase.ACCEPT, DrainPhase.REFUSE, DrainPhase.EXIT, DrainPhase.CUT


@pytest.mark.parametrize(
    ("at_s", "in_flight", "quiet_for_s", "phase", "story"),
    [
        (0.0, 0, 0.0, ACCEPT, "the signal comes to an idle server; a request may be on its way"),
        (0.5, 0, 0.5, EXIT, "none came"),
        (0.0, 3, 0.0, ACCEPT, "the signal comes amid three requests"),
        (3.0, 4, 0.2, ACCEPT, "proxies still send; they are served"),
        (5.0, 4, 2.0, REFUSE, "by now every proxy knows"),
        (30.0, 1, 20.0, REFUSE, "one long generation goes on"),
        (31.0, 0, 0.1, REFUSE, "it has just ended; its last bytes leave"),
        (31.5, 0, 0.6, EXIT, "all done"),
        (60.0, 1, 55.0, CUT, "the time is over with one still going"),
        (60.0, 0, 0.1, CUT, "the time is over while connections close"),
    ],
)
def test_drain(at_s: float, in_flight: int, quiet_for_s: float, phase: DrainPhase, story: str) -> None:
    assert decide(SPEC, in_flight, quiet_for_s, at_s) is phase, story


def test_no_time_at_all_ends_an_idle_server_at_once() -> None:
    assert decide(DrainSpec(0, 5, 0.5), in_flight=0, quiet_for_s=0, draining_for_s=0) is EXIT
