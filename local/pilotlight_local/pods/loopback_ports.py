"""TCP ports on the loopback address for pods, each lent to one pod of one platform at a time.

A pod binds its port seconds after it was given one, and every platform counts from the same first port. So a port is
reserved by a name that the kernel keeps for us: an abstract Unix socket, which has the scope of the port itself (the
network namespace), belongs to one process, whoever runs it, and goes with it. Must not: listen on a port.
"""

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
        self._next = count()
        self._reserved: dict[int, socket.socket] = {}

    def take(self) -> int:
        """A port nobody listens on or has reserved; give it back with `give_back`. Raises OSError without one."""
        for _ in range(LAST_PORT - FIRST_PORT):
            port = FIRST_PORT + next(self._next) % (LAST_PORT - FIRST_PORT)
            if self._reserve(port):
                return port
        raise OSError(errno.EADDRINUSE, f"no free port between {FIRST_PORT} and {LAST_PORT} on {LOOPBACK}")

    def give_back(self, port: int) -> None:
        """The pod that used the port is gone."""
        self._reserved.pop(port).close()

    def _reserve(self, port: int) -> bool:
        name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            name.bind(f"\0pilotlight/pod-port/{port}")
            _check_free(port)
        except OSError:
            name.close()
            return False
        self._reserved[port] = name
        return True


def _check_free(port: int) -> None:
    """Raises OSError when somebody listens; programs that are no platform reserve nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # All addresses: pods usually listen on 0.0.0.0.
        probe.bind(("", port))
