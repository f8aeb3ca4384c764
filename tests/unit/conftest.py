"""No unit test opens a network socket or waits for real time to pass: the one that does fails.

Mark what sleeps `looptime`; what cannot be, because threads do the work, `real_time` with the reason.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

_INET = (socket.AF_INET, socket.AF_INET6)
# `waiting` looks for what another thread does, with a deadline; `subprocess` for the end of a process.
_MAY_SLEEP = ("waiting", "subprocess")
_real_sleep = time.sleep
_real_asyncio_sleep = asyncio.sleep


@pytest.fixture(autouse=True)
def no_network_and_no_real_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    broken: list[str] = []

    def refused(method: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(sock: socket.socket, address: Any, *rest: Any) -> Any:
            if sock.family in _INET:
                broken.append(f"a socket to {address}: what needs one is an integration test")
                raise OSError("unit tests have no network")
            return method(sock, address, *rest)

        return guarded

    def sleep(seconds: float) -> None:
        if seconds > 0 and _caller() not in _MAY_SLEEP:
            broken.append(f"{_caller()} slept for {seconds} s: pass a clock, or wait for an event")
        _real_sleep(seconds)

    def asyncio_sleep(delay: float, result: Any = None) -> Any:
        return _slept(delay, result, _caller())

    async def _slept(delay: float, result: Any, caller: str) -> Any:
        told = await _real_asyncio_sleep(delay, result)
        # What was cancelled on the way was not waited for.
        if delay > 0 and caller not in _MAY_SLEEP and not _in_virtual_time(asyncio.get_running_loop()):
            broken.append(f"{caller} slept for {delay} s: mark the test looptime")
        return told

    for name in ("bind", "connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused(getattr(socket.socket, name)))
    if request.node.get_closest_marker("real_time") is None:
        monkeypatch.setattr(time, "sleep", sleep)
        monkeypatch.setattr(asyncio, "sleep", asyncio_sleep)
    yield
    assert not broken, broken


def _caller() -> str:
    return str(sys._getframe(2).f_globals["__name__"])


def _in_virtual_time(loop: asyncio.AbstractEventLoop) -> bool:
    looptime: bool | None = getattr(loop, "looptime_on", None)
    return type(loop).time is not asyncio.BaseEventLoop.time if looptime is None else looptime
