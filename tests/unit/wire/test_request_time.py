"""How long a request's sender waits: what it may say, and what is told on of it."""

from __future__ import annotations

import math

import pytest

from pilotlight_wire.handlers import RequestContext
from pilotlight_wire.hop_headers import told_seconds, waits_s
from pilotlight_wire.request_time import keep_time, left_s, passed_on, too_late


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("2", 2.0),
        ("0.25", 0.25),
        ("0", 0.0),
        ("-1", None),
        ("1e3", None),
        ("soon", None),
        ("9999999", None),
        ("", None),
    ],
)
def test_what_can_be_read(said: str, seconds: float | None) -> None:
    assert waits_s({"x-request-timeout": said}) == seconds


@pytest.mark.parametrize("seconds", [-3.0, 0.0, 0.0004, 1.5, 1e9])
def test_what_is_told_on_can_be_read(seconds: float) -> None:
    read = waits_s({"x-request-timeout": told_seconds(seconds)})
    assert read is not None
    assert read > 0


@pytest.mark.parametrize(
    ("header", "most_s", "left"),
    [("9", None, 9), ("9", 4.0, 4), ("9", math.inf, 9), (None, 4.0, 4), (None, None, None)],
)
def test_the_shorter_of_what_is_said(header: str | None, most_s: float | None, left: float | None) -> None:
    context = RequestContext("r", {} if header is None else {"x-request-timeout": header})
    keep_time(context, most_s)
    keep_time(context)  # later, which makes it no longer
    found = left_s(context)
    assert found is None if left is None else found is not None and left - 1 < found <= left
    assert ("x-request-timeout" in passed_on(context)) == (left is not None)
    assert ("9 s of x-request-timeout" if header else "deadline") in too_late(context).message
