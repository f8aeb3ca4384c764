"""Where the next engine listens: a socket in a private folder, or a port that other nodes can reach. Pure.

On TCP the first frame's secret is the lock; the port is no secret. Ports go round, so that a holder that comes late
mostly finds nobody, and a port that is still in use costs one try.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from pilotlight_protocol.errors import InvalidInput


class EngineAddresses:
    """`host` None: Unix sockets in `run_dir`. `ports` None: the kernel chooses."""

    def __init__(self, run_dir: Path, host: str | None = None, ports: range | None = None) -> None:
        self._run_dir = run_dir
        self._host = host
        self._ports = itertools.cycle(ports or (0,))

    def next(self, device: str, incarnation: int) -> str:
        """`unix:///path.sock` or `tcp://host:port`."""
        if self._host is not None:
            host = f"[{self._host}]" if ":" in self._host else self._host
            return f"tcp://{host}:{next(self._ports)}"
        # Never the path of an earlier engine: a holder that comes late must find nobody there.
        name = f"{device.replace(':', '-').replace('/', '-')}.{incarnation}.sock"
        return f"unix://{self._run_dir / name}"


def parse_ports(text: str, slots: int) -> range:
    """`20000-20063`, both included: at least two per slot. Raises InvalidInput."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 65536):
        raise InvalidInput(f"--engine_ports {text!r} is not understood; write for example 20000-20063")
    ports = range(int(first), int(last) + 1)
    if len(ports) < 2 * slots:
        raise InvalidInput(f"--engine_ports {text!r} are {len(ports)} ports; {slots} slots need at least {2 * slots}")
    return ports
