"""Tells glibc's malloc to keep what is freed. Adapter to mallopt(3); does nothing where another allocator is in use."""

from __future__ import annotations

import ctypes

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# The most that glibc takes; larger allocations are mapped, and touched for the first time, each time.
_LARGEST_KEPT_BYTES = 32 << 20
_NEVER_TRIM = (1 << 31) - 1


def keep_freed_memory() -> None:
    """For this process, from now on: freed allocations are used again, by any thread, with the pages they have.

    Memory given back to the kernel is zeroed and faulted in once more, page by page, when it is next needed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    for parameter, value in (
        (_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES), (_M_TRIM_THRESHOLD, _NEVER_TRIM), (_M_ARENA_MAX, 1),
    ):  # fmt: skip
        mallopt(parameter, value)
