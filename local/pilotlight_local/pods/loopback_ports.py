"""Free TCP ports on the loopback address for pods. Must not: hold sockets open."""

import errno
import socket
from itertools import count

LOOPBACK = "127.0.0.1"
# Below Linux's ephemeral range (32768-60999), so that no outgoing connection takes a port between choice and bind.
FIRST_PORT = 20_000
LAST_PORT = 32_000


class LoopbackPorts:
    """Hands out ports round-robin, so that a port rests long before it is used again."""

    def __init__(self) -> None:
        self._next = count(FIRST_PORT)
        self._taken: set[int] = set()

    def take(self) -> int:
        """A port nobody listens on; give it back with `give_back`. Raises OSError when there is none."""
        for _ in range(LAST_PORT - FIRST_PORT):
            port = FIRST_PORT + (next(self._next) - FIRST_PORT) % (LAST_PORT - FIRST_PORT)
            if port not in self._taken and _is_free(port):
                self._taken.add(port)
                return port
        raise OSError(errno.EADDRINUSE, f"no free port between {FIRST_PORT} and {LAST_PORT} on {LOOPBACK}")

    def give_back(self, port: int) -> None:
        """The pod that used the port is gone."""
        self._taken.discard(port)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # All addresses: pods usually listen on 0.0.0.0.
            probe.bind(("", port))
        except OSError:
            return False
    return True
