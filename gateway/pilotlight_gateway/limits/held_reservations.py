"""What one replica holds of accounts that are kept elsewhere: reservations that are open, and ends that must be told.

An end waits until it was told, however long nobody listens. What then becomes too much is added up by tenant and day: a
minute that is over limits nobody. Pure: ids and times are passed in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from pilotlight_gateway.limits.calendar_periods import DAY_S, day_of

GIVEN_BACK = -1
MOST_WAITING = 10_000


class HeldReservation(msgspec.Struct, frozen=True):
    """`second`: of its beginning. `told`: it may be known where the accounts are kept."""

    tenant: str
    second: int
    tokens: int
    told: bool


class EndedReservation(msgspec.Struct):
    """`tokens`: what it took, `GIVEN_BACK` where it never ran."""

    id: str
    tenant: str
    second: int
    tokens: int
    told: bool


class HeldReservations:
    """`process`: of no other replica, at no other time."""

    def __init__(self, process: str, most_waiting: int = MOST_WAITING) -> None:
        self._process = process
        self._most_waiting = most_waiting
        self._open: dict[str, HeldReservation] = {}
        self._ended: OrderedDict[str, EndedReservation] = OrderedDict()
        self._sums = 0

    def hold(self, reservation_id: str, held: HeldReservation) -> None:
        self._open[reservation_id] = held

    def end(self, reservation_id: str, tokens: int) -> None:
        """Once; any other time changes nothing."""
        held = self._open.pop(reservation_id, None)
        if held is None or (tokens == GIVEN_BACK and not held.told):
            return
        self._ended[reservation_id] = EndedReservation(reservation_id, held.tenant, held.second, tokens, held.told)
        if len(self._ended) > self._most_waiting:
            self._add_up()

    @property
    def open_by_tenant(self) -> dict[str, list[tuple[str, HeldReservation]]]:
        found: dict[str, list[tuple[str, HeldReservation]]] = {}
        for reservation_id, held in self._open.items():
            found.setdefault(held.tenant, []).append((reservation_id, held))
        return found

    def tell_open(self, reservation_ids: Sequence[str]) -> None:
        """They are about to be told."""
        for reservation_id in reservation_ids:
            held = self._open.get(reservation_id)
            if held is not None and not held.told:
                self._open[reservation_id] = msgspec.structs.replace(held, told=True)

    def tell_ended(self, most: int) -> list[EndedReservation]:
        """The oldest, about to be told; they wait until `told`."""
        batch: list[EndedReservation] = []
        for ended in self._ended.values():
            if len(batch) == most:
                break
            ended.told = True
            batch.append(ended)
        return batch

    def told(self, batch: Sequence[EndedReservation]) -> None:
        for ended in batch:
            self._ended.pop(ended.id, None)

    def _add_up(self) -> None:
        """Those that nobody was told of: what may be known by its id keeps it."""
        sums: dict[tuple[str, int], int] = {}
        for ended in [ended for ended in self._ended.values() if not ended.told]:
            del self._ended[ended.id]
            key = ended.tenant, day_of(ended.second)
            sums[key] = sums.get(key, 0) + ended.tokens
        for (tenant, day), tokens in sums.items():
            self._sums += 1
            sum_id = f"{self._process}-sum-{self._sums}"
            self._ended[sum_id] = EndedReservation(sum_id, tenant, day * DAY_S, tokens, told=False)
