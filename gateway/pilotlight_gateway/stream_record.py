"""What another gateway needs to go on with a running stream when this one dies: who makes it, and what was told. Pure.

It is the request's, filled by the way that answers it, and read by whoever keeps it (`idempotency`). Where nobody keeps
it there is none, and a stream costs what it costs without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from pilotlight_gateway.ways import WayName
from pilotlight_protocol.answer_record import Seed
from pilotlight_protocol.errors import DeadlineExceeded, TooManyRequests, Unavailable


class NobodyGoesOn(Unavailable):
    """What had begun cannot become the same answer any more, wherever it is tried."""


class OpenReservation(msgspec.Struct, frozen=True):
    """What a tenant's limits hold for a request that runs."""

    id: str
    tokens: int


class Began(msgspec.Struct, frozen=True):
    """How an answer began, as far as another process must do the same to say the same. `spec_digest`: of the endpoint
    as it was. `model_name`: as its components call the model."""

    way: WayName
    namespace: str
    name: str
    spec_digest: str
    model_name: str
    seed: str
    request_id: str
    reservation: OpenReservation | None = None


class Passed(msgspec.Struct, frozen=True, array_like=True):
    """So many bytes of the answer have been shown, and their CRC-32."""

    sent: int
    crc: int


@dataclass(frozen=True, slots=True)
class LeftOff:
    """What another process made of an answer, and kept. `told`: lines of `answer_record`."""

    began: Began
    told: bytes
    passed: Passed


class Feed(Protocol):
    """What passes of a stream."""

    @property
    def position(self) -> Passed: ...

    def told_from(self, place: int) -> bytes | None:
        """None where nobody else could go on with it."""
        ...


class StreamRecord:
    """`left_off`: where another process had begun it; then whoever answers the request goes on from there. `is_left`:
    this process ends before it, and whoever goes on with it is billed for all of it. `is_last`: nobody may take it over
    any more."""

    def __init__(self, seed: Seed, left_off: LeftOff | None = None, *, is_last: bool = False) -> None:
        self.seed = seed
        self.left_off = left_off
        self.is_left = False
        self.is_last = is_last
        self.began: Began | None = None if left_off is None else left_off.began
        self.reservation: OpenReservation | None = None
        self._feed: Feed | None = None

    def may_try_elsewhere(self, error: BaseException | None) -> bool:
        """After that error of who was to go on, and had not yet."""
        if self.left_off is None or self.is_last or isinstance(error, NobodyGoesOn):
            return False
        if isinstance(error, Unavailable):
            return error.retry_after_s > 0  # who cannot at all, however often it is tried, says no time
        return isinstance(error, (TooManyRequests, DeadlineExceeded))

    def make(self, began: Began, feed: Feed) -> None:
        """It is made so from now on."""
        self.began, self._feed = began, feed

    @property
    def position(self) -> Passed | None:
        return None if self._feed is None else self._feed.position

    def told_from(self, place: int) -> bytes | None:
        return b"" if self._feed is None else self._feed.told_from(place)
