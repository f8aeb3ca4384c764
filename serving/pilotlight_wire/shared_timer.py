"""One timer of the event loop for everybody who waits equally long: a deadline that is nearly always met costs two
dictionary operations.

It must not know what is late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

_EARLY_S = 0.001
"""uvloop counts in milliseconds, and may be that early."""
_MOST_LENGTHS = 1024


class SharedTimer:
    """`late` of `start` is called after `after_s`, unless `stop` comes before. Everybody has one deadline at a time."""

    __slots__ = ("_timer", "_waiting", "after_s")

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self._waiting: dict[Hashable, tuple[float, Callable[[], object]]] = {}
        """In the order in which they are due."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self, who: Hashable, late: Callable[[], object]) -> None:
        """From now on; what `who` waited for before is forgotten."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting
        waiting.pop(who, None)
        due_s = loop.time() + self.after_s
        waiting[who] = due_s, late
        if self._timer is None:
            self._timer = loop.call_at(due_s, self._look)

    def stop(self, who: Hashable) -> None:
        self._waiting.pop(who, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time() + _EARLY_S
        self._timer = None
        while self._waiting:
            who = next(iter(self._waiting))
            due_s, late = self._waiting[who]
            if due_s > now_s:
                break
            del self._waiting[who]
            try:
                late()
            except Exception as error:  # which must not make the others wait for ever
                loop.call_exception_handler({"message": "a deadline's callback failed", "exception": error})
        if self._waiting and self._timer is None:
            self._timer = loop.call_at(next(iter(self._waiting.values()))[0], self._look)


class SharedTimeouts:
    """`asyncio.timeout` at a quarter of its price, for a few lengths that many tasks have in common."""

    def __init__(self) -> None:
        self._timers: dict[float, SharedTimer] = {}

    def of(self, after_s: float) -> TaskTimeout:
        timer = self._timers.get(after_s)
        if timer is None:
            if len(self._timers) >= _MOST_LENGTHS:
                self._timers.clear()  # those that are waited for go on
            timer = self._timers[after_s] = SharedTimer(after_s)
        return TaskTimeout(timer)


class TaskTimeout:
    """`with`: the task that is inside when the time is over is cancelled, and TimeoutError raised here instead."""

    __slots__ = ("_cancelling", "_expired", "_task", "_timer")

    def __init__(self, timer: SharedTimer) -> None:
        self._timer = timer
        self._expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._timer.start(self, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._timer.stop(self)
        # As asyncio.timeout does it: who else cancelled the task meanwhile is heard.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
