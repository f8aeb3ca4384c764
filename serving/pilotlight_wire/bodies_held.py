"""How many bytes of requests' bodies a server holds at once: those of all its places would fill any memory. Pure."""

from __future__ import annotations

from pilotlight_protocol.errors import Unavailable


class BodiesHeld:
    """Of all requests of one server."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0


class HeldBytes:
    """One request's, until `give_back`."""

    __slots__ = ("_all", "_bytes")

    def __init__(self, of_all: BodiesHeld) -> None:
        self._all = of_all
        self._bytes = 0

    def take(self, size: int) -> None:
        """Raises Unavailable."""
        held = self._all
        if held.held_bytes + size > held.most_bytes:
            raise Unavailable(
                f"the bodies of running requests have {held.most_bytes} bytes, the most this server takes; try again",
                retry_after_s=1,
            )
        held.held_bytes += size
        self._bytes += size

    def give_back(self) -> None:
        self._all.held_bytes -= self._bytes
        self._bytes = 0
