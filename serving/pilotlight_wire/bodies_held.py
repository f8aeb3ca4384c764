"""How many bytes of request bodies a server holds, and whose: a bound for all of them, and a share for each tenant.

A tenant may hold as much as it leaves free for others. So alone it has half of all there is, beside n others who take
all they get one part of n + 2, and whoever comes next finds room (dynamic thresholds: Choudhury and Hahne, "Dynamic
queue length thresholds for shared-memory packet switches", 1998). Pure.
"""

from __future__ import annotations

from pilotlight_protocol.errors import TooManyRequests, Unavailable

RETRY_AFTER_S = 1.0


class BodiesHeld:
    """Those of all requests of one server: those of all its places would fill any memory."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0
        self.of_tenants: dict[str, int] = {}


class HeldBytes:
    """One request's, until `give_back`. `tenant`: whose, "" where nobody tells them apart; said before the first."""

    __slots__ = ("_all", "_bytes", "tenant")

    def __init__(self, of_all: BodiesHeld) -> None:
        self._all = of_all
        self._bytes = 0
        self.tenant = ""

    def take(self, size: int) -> None:
        """Raises Unavailable, TooManyRequests."""
        held = self._all
        free_bytes = held.most_bytes - held.held_bytes - size
        if free_bytes < 0:
            raise Unavailable(
                f"the bodies of running requests have {held.most_bytes} bytes, the most this server takes; try again",
                retry_after_s=RETRY_AFTER_S,
            )
        if self.tenant and size:
            tenants_bytes = held.of_tenants.get(self.tenant, 0) + size
            if tenants_bytes > free_bytes:
                raise TooManyRequests(
                    f"the bodies of your running requests would have {tenants_bytes} bytes, more than there would be "
                    "left for others; send this one when some of them have ended",
                    retry_after_s=RETRY_AFTER_S,
                )
            held.of_tenants[self.tenant] = tenants_bytes
        held.held_bytes += size
        self._bytes += size

    def give_back(self) -> None:
        held, size = self._all, self._bytes
        held.held_bytes -= size
        self._bytes = 0
        if not self.tenant or not size:
            return
        left = held.of_tenants[self.tenant] - size
        if left:
            held.of_tenants[self.tenant] = left
        else:
            del held.of_tenants[self.tenant]
