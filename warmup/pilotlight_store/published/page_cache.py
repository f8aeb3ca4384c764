"""The tier above the disk: a model's bytes in the kernel's page cache, asked for, measured and given back.

The kernel may drop them at any time, so residency is never remembered, only measured (mincore(2)).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

PAGE_BYTES = mmap.PAGESIZE
RESIDENT_SHARE = 0.99
"""Of the bytes of a model that is in memory; the kernel always takes a few pages back."""
WINDOW_BYTES = 8 * 1024 * 1024
MEASURED_BYTES = 2**30
"""Mapped and asked about at once: a file may say that it is larger than any memory."""
_MAP_SHARED, _PROT_READ = 1, 1
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_MAP_FAILED = ctypes.c_void_p(-1).value


def resident_bytes(path: Path) -> int:
    """How much of the file is in memory, in whole pages. Raises OSError."""
    with _opened(path) as (descriptor, size):
        windows = (_residency(descriptor, start, size) for start in range(0, size, MEASURED_BYTES))
        return min(sum(window.count(1) for window in windows) * PAGE_BYTES, size)


def _residency(descriptor: int, start: int, size: int, length: int = MEASURED_BYTES) -> bytes:
    """One byte per page of the file from `start`, 1 where the page is in memory. Raises OSError."""
    length = min(length, size - start)
    address = _libc.mmap(None, length, _PROT_READ, _MAP_SHARED, descriptor, start)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        flags = ctypes.create_string_buffer((length + PAGE_BYTES - 1) // PAGE_BYTES)
        if _libc.mincore(address, length, flags):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return flags.raw.translate(_LOWEST_BIT)
    finally:
        _libc.munmap(address, length)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """Descriptor and size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor, os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def load(path: Path, stop: Callable[[], bool], arrived: Callable[[int], None]) -> None:
    """Bring the whole file into memory; `arrived` is told the bytes of each window, `stop` ends it between windows.

    The kernel is asked to read the window after next in advance (POSIX_FADV_WILLNEED) while missing pages of this one
    are read, so that the disk is never idle.
    """
    scratch = memoryview(bytearray(1024 * 1024))
    with _opened(path) as (descriptor, size):
        for start in range(0, size, WINDOW_BYTES):
            if stop():
                return
            end = min(start + WINDOW_BYTES, size)
            if 0 in _residency(descriptor, start, size, WINDOW_BYTES):
                os.posix_fadvise(descriptor, end, WINDOW_BYTES, os.POSIX_FADV_WILLNEED)
                position = start
                while position < end and (count := os.preadv(descriptor, [scratch], position)):
                    position += count
            arrived(end - start)


def drop(path: Path) -> None:
    """Tell the kernel that nobody needs these pages soon; pages that are mapped or not yet written stay."""
    with _opened(path) as (descriptor, _):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


_LOWEST_BIT = bytes(value & 1 for value in range(256))
