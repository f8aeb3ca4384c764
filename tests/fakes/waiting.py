"""Waiting for what tells no event: processes, threads and servers. The one place where tests look again and again."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

POLL_S = 0.01
# Of what takes milliseconds on an idle machine: long enough for a busy one, so that only what never comes fails.
DEADLINE_S = 30.0
Value = TypeVar("Value")
Told = str | Callable[[], str]


def until(
    look: Callable[[], Value], deadline_s: float = DEADLINE_S, what: Told = "", holds: Callable[[Value], object] = bool
) -> Value:
    """The first value of `look()` that `holds`; fails with `what` and what was seen last when none comes in time."""
    ends_at = time.monotonic() + deadline_s
    while not holds(value := look()):
        _not_after(ends_at, deadline_s, what, value)
        time.sleep(POLL_S)
    return value


@overload
async def until_async(
    look: Callable[[], Coroutine[Any, Any, Value]],
    deadline_s: float = ...,
    what: Told = ...,
    holds: Callable[[Value], object] = ...,
) -> Value: ...
@overload
async def until_async(
    look: Callable[[], Value], deadline_s: float = ..., what: Told = ..., holds: Callable[[Value], object] = ...
) -> Value: ...
async def until_async(
    look: Callable[[], Any], deadline_s: float = DEADLINE_S, what: Told = "", holds: Callable[[Any], object] = bool
) -> Any:
    """As `until`, beside what else runs on the loop; the deadline is real time in virtual time too."""
    ends_at = time.monotonic() + deadline_s
    while True:
        value = look()
        if inspect.isawaitable(value):
            value = await value
        if holds(value):
            return value
        _not_after(ends_at, deadline_s, what, value)
        await asyncio.sleep(POLL_S)


def _not_after(ends_at: float, deadline_s: float, what: Told, seen: object) -> None:
    if time.monotonic() >= ends_at:
        told = what if isinstance(what, str) else what()
        raise AssertionError(f"not within {deadline_s:g} s: {told}; last seen: {seen!r}")
