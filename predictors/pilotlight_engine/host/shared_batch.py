"""Whose request enters the engine next, where several holders share its batch.

Requests beyond what the engine can have at work wait here, by holder, and holders take turns: one with a hundred
waiting delays one with ten by one request each, not by a hundred. Each holder's own enter by priority, then in
the order in which they came. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

_Request = TypeVar("_Request")


@dataclass(frozen=True, slots=True)
class Asked(Generic[_Request]):
    """`stream` is the holder's number for its request, `number` ours: never used twice. The lower
    `priority`, the earlier."""

    number: int
    lease_id: str
    stream: int
    request: _Request
    choices: int = 1
    priority: int = 0


class SharedBatch(Generic[_Request]):
    """`size`: how many requests the engine can have at work."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._last_number = 0
        self._waiting: OrderedDict[str, OrderedDict[int, Asked[_Request]]] = OrderedDict()
        self._at_work: dict[int, Asked[_Request]] = {}
        self._choices_left: dict[int, int] = {}
        self._numbers: dict[str, dict[int, int]] = {}

    @property
    def at_work(self) -> int:
        return len(self._at_work)

    def ask(self, lease_id: str, stream: int, request: _Request, choices: int = 1, priority: int = 0) -> None:
        self._last_number += 1
        asked = Asked(self._last_number, lease_id, stream, request, choices, priority)
        self._waiting.setdefault(lease_id, OrderedDict())[stream] = asked

    def next(self, *, alone: bool = False) -> Asked[_Request] | None:
        """The request that enters now; None while nothing waits or the batch is full. `alone`: there is nobody to share
        with, so nothing waits here: the engine's own queue knows priorities."""
        if not self._waiting or (len(self._at_work) >= self._size and not alone):
            return None
        lease_id, queue = next(iter(self._waiting.items()))
        asked = queue.pop(min(queue.values(), key=lambda each: (each.priority, each.number)).stream)
        if queue:
            self._waiting.move_to_end(lease_id)
        else:
            del self._waiting[lease_id]
        self._at_work[asked.number] = asked
        self._choices_left[asked.number] = asked.choices
        self._numbers.setdefault(lease_id, {})[asked.stream] = asked.number
        return asked

    def asked_by(self, number: int) -> Asked[_Request] | None:
        return self._at_work.get(number)

    def choice_ended(self, number: int) -> None:
        """One of the choices that the request asked for; it is over with the last."""
        if number in self._choices_left:
            self._choices_left[number] -= 1
            if self._choices_left[number] <= 0:
                self.forget(number)

    def forget(self, number: int) -> Asked[_Request] | None:
        """It is at work no more."""
        asked = self._at_work.pop(number, None)
        self._choices_left.pop(number, None)
        if asked is not None:
            numbers = self._numbers[asked.lease_id]
            if numbers.get(asked.stream) == number:
                del numbers[asked.stream]
            if not numbers:
                del self._numbers[asked.lease_id]
        return asked

    def abort(self, lease_id: str, stream: int) -> int | None:
        """The number under which the engine has it, which it must end; None where it does not."""
        queue = self._waiting.get(lease_id)
        if queue is not None and queue.pop(stream, None) is not None:
            if not queue:
                del self._waiting[lease_id]
            return None
        number = self._numbers.get(lease_id, {}).get(stream)
        if number is not None:
            self.forget(number)
        return number

    def leave(self, lease_id: str) -> tuple[int, ...]:
        """The holder is gone: nothing of it waits any more; what the engine must end."""
        self._waiting.pop(lease_id, None)
        numbers = tuple(self._numbers.get(lease_id, {}).values())
        for number in numbers:
            self.forget(number)
        return numbers

    def load(self, lease_id: str) -> tuple[int, int]:
        """(at work, waiting) of one holder."""
        return len(self._numbers.get(lease_id, ())), len(self._waiting.get(lease_id, ()))
