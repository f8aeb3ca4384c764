"""Ports of servers that tests start.

Below those that the kernel gives to outgoing connections and those that `pilotlight up` gives to pods, so that nobody
takes one between its choice and its server; and never the same one for two tests, in whatever process they run.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from typing import Any

from waiting import until

FIRST_PORT = 10_000
LAST_PORT = 20_000

_next = itertools.count(os.getpid() * 37)
_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port nobody listens on, this process's own until it ends."""
    for _ in range(LAST_PORT - FIRST_PORT):
        port = FIRST_PORT + next(_next) % (LAST_PORT - FIRST_PORT)
        if _reserve(port):
            return port
    raise AssertionError(f"no free port between {FIRST_PORT} and {LAST_PORT}")


def _reserve(port: int) -> bool:
    # An abstract name is the kernel's own lock file: it goes with the process.
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0pilotlight-test-port-{port}")
        with socket.create_server(("127.0.0.1", port)):
            pass
    except OSError:
        name.close()
        return False
    _reserved.append(name)
    return True


def until_open(port: int, process: subprocess.Popen[Any]) -> None:
    def is_open() -> bool:
        assert process.poll() is None, "the server ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(is_open, what="the server did not start")
