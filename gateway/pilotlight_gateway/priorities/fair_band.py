"""Requests of one priority: the tenants take turns by tokens, each tenant's own requests in their order. Pure.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996): a tenant's line has a place in virtual time that moves on by
the tokens of each of its requests that starts; the line that is furthest behind comes next. Two lines that never run
empty are never further apart than one request of each. Who was away comes back at the present: nothing is saved up.
What a request was taken to cost is set right when it has ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

MOST_LINES = 4096


@dataclass(slots=True, eq=False)
class Ticket:
    """A request before an endpoint. `tokens`: what it is taken to cost; `weight`: sequences it runs at once.
    `started_s`: None while it waits."""

    tenant: str
    rank: int
    tokens: int
    size_bytes: int = 0
    weight: int = 1
    started_s: float | None = None


@dataclass(slots=True, eq=False)
class Line:
    """One tenant's requests of this priority. `place`: in virtual time."""

    place: float
    waiting: deque[Ticket] = field(default_factory=deque)
    running: int = 0


class FairBand:
    __slots__ = ("_backlogged", "_lines", "_now", "tokens", "waiting")

    def __init__(self) -> None:
        self._now = 0.0
        self._lines: dict[str, Line] = {}
        self._backlogged: dict[str, Line] = {}
        self.waiting = 0
        self.tokens = 0

    def push(self, ticket: Ticket) -> None:
        line = self._line(ticket.tenant)
        line.waiting.append(ticket)
        self._backlogged[ticket.tenant] = line
        self.waiting += 1
        self.tokens += ticket.tokens

    def head(self) -> Ticket | None:
        if not self._backlogged:
            return None
        return min(self._backlogged.values(), key=_place).waiting[0]

    def start(self, ticket: Ticket) -> None:
        """It runs from now on; where it waited, it was the head."""
        line = self._line(ticket.tenant)
        if line.waiting and line.waiting[0] is ticket:
            line.waiting.popleft()
            self._left(ticket, line)
        if line.place > self._now:
            self._now = line.place
        line.place += ticket.tokens
        line.running += 1

    def end(self, ticket: Ticket, tokens: int) -> None:
        """One that had started is over; it took `tokens`."""
        line = self._lines[ticket.tenant]
        line.place += tokens - ticket.tokens
        line.running -= 1
        if line.place <= self._now and not line.running:
            self._forget(ticket.tenant, line)

    def remove(self, ticket: Ticket) -> bool:
        """False where it does not wait."""
        line = self._backlogged.get(ticket.tenant)
        if line is None or ticket not in line.waiting:
            return False
        line.waiting.remove(ticket)
        self._left(ticket, line)
        self._forget(ticket.tenant, line)
        return True

    def waiting_of(self, tenant: str) -> int:
        line = self._backlogged.get(tenant)
        return 0 if line is None else len(line.waiting)

    def waiting_tokens_of(self, tenant: str) -> int:
        line = self._backlogged.get(tenant)
        return 0 if line is None else sum(ticket.tokens for ticket in line.waiting)

    @property
    def tenants_waiting(self) -> int:
        return len(self._backlogged)

    def newest_of_longest(self) -> Ticket | None:
        """The last one of the tenant that has most waiting."""
        if not self._backlogged:
            return None
        return max(self._backlogged.values(), key=_length).waiting[-1]

    def newest_of(self, tenant: str) -> Ticket | None:
        line = self._backlogged.get(tenant)
        return None if line is None else line.waiting[-1]

    def _line(self, tenant: str) -> Line:
        line = self._lines.get(tenant)
        if line is None:
            if len(self._lines) >= MOST_LINES:
                self._make_room()
            line = self._lines[tenant] = Line(self._now)
        elif not line.waiting and line.place < self._now:
            line.place = self._now
        return line

    def _left(self, ticket: Ticket, line: Line) -> None:
        self.waiting -= 1
        self.tokens -= ticket.tokens
        if not line.waiting:
            del self._backlogged[ticket.tenant]

    def _forget(self, tenant: str, line: Line) -> None:
        if not line.running and not line.waiting and line.place <= self._now:
            del self._lines[tenant]

    def _make_room(self) -> None:
        for tenant in [name for name, line in self._lines.items() if not line.running and not line.waiting]:
            del self._lines[tenant]


def _place(line: Line) -> float:
    return line.place


def _length(line: Line) -> int:
    return len(line.waiting)
