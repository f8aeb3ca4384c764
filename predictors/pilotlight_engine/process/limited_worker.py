"""What processes that run a stranger's input have in common: how they are started, what they give up before their first
byte of it, and the frames they are asked in. Adapter to Linux.

A worker imports this alone of what its starter is made of: its start is a client's wait.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys

HEADER = struct.Struct("<I")
"""Before each frame: its bytes."""

BEGUN = HEADER.pack(0)
"""Sent first, when its imports are done and its limits hold: no work pays for them."""

OUT_OF_MEMORY = 70
"""Exit status; below 128 and no other's (Python's own are 0 to 2)."""

_PR_SET_PDEATHSIG = 1
_STANDARD_FDS = 3
_READ_BYTES = 1 << 20


def command(module: str, *arguments: object) -> list[str]:
    """Runs the module's `main`, isolated from the user's site packages and environment; it finds what this process
    finds."""
    boot = (
        f"import sys; sys.path[:] = {[entry for entry in sys.path if entry]!r}; "
        f"from {module} import main; main({', '.join(map(repr, arguments))})"
    )
    return [sys.executable, "-I", "-S", "-c", boot]


def give_up(memory_kind: int, memory_limit_bytes: int) -> None:
    """All that this process does not hold already: files, sockets, core dumps, memory beyond the limit (`memory_kind`:
    RLIMIT_AS or RLIMIT_DATA). It ends with its parent, and at the end of its CPU timer."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.closerange(_STANDARD_FDS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _STANDARD_FDS),
        (memory_kind, memory_limit_bytes),
    ):
        resource.setrlimit(kind, (limit, limit))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})


def limit_cpu(seconds: float) -> None:
    """The kernel ends this process (SIGPROF) when it has used so much from now on; 0: no limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def read_frame(fd: int) -> bytes | None:
    """None at the end."""
    header = _read_exactly(fd, HEADER.size)
    return None if header is None else _read_exactly(fd, HEADER.unpack(header)[0])


def write_frame(fd: int, data: bytes) -> None:
    write_all(fd, HEADER.pack(len(data)) + data)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_exactly(fd: int, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        more = os.read(fd, min(length - len(data), _READ_BYTES))
        if not more:
            return None
        data += more
    return bytes(data)
