"""How the engine host and vLLM's worker processes end with whoever started them. Linux only, as vLLM is.

The host leads a process group of its own: killing the group reaches workers that do not watch a pipe themselves.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the thread that started this process ends (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def kill_own_group() -> None:
    """End this process at once, and its children with it when it leads its group."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_group(leader_pid: int) -> None:
    """SIGKILL a child's whole group; a group that is gone already is fine."""
    try:
        os.killpg(leader_pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def how_it_ended(code: int) -> str:
    """`code`: the exit code, or -n for signal n."""
    if code == -signal.SIGKILL:
        return (
            "was killed by signal 9, of the kernel's out-of-memory killer if nobody sent it: then it needs more memory"
        )
    return f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
