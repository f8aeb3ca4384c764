"""The tier above the disk: a model's bytes in the kernel's page cache, asked for, measured and given back.

The kernel may drop them at any time, so residency is never remembered, only measured (mincore(2)).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

PAGE_BYTES = mmap.PAGESIZE
WINDOW_BYTES = 8 * 1024 * 1024
_MAP_SHARED, _PROT_READ = 1, 1
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_MAP_FAILED = ctypes.c_void_p(-1).value


def resident_pages(path: Path) -> bytes:
    """One byte per page of the file, odd where the page is in memory. Raises OSError."""
    size = path.stat().st_size
    if size == 0:
        return b""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        address = _libc.mmap(None, size, _PROT_READ, _MAP_SHARED, descriptor, 0)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        try:
            flags = ctypes.create_string_buffer((size + PAGE_BYTES - 1) // PAGE_BYTES)
            if _libc.mincore(address, size, flags):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
            return flags.raw
        finally:
            _libc.munmap(address, size)
    finally:
        os.close(descriptor)


def resident_bytes(path: Path) -> int:
    """How much of the file is in memory, in whole pages."""
    flags = resident_pages(path)
    pages = sum(flags.translate(_LOWEST_BIT).count(b"\1") for flags in (flags,))
    return min(pages * PAGE_BYTES, path.stat().st_size)


def load(path: Path, stop: Callable[[], bool], arrived: Callable[[int], None]) -> None:
    """Bring the whole file into memory; `arrived` is told the bytes of each window, `stop` ends it between windows.

    The kernel is asked to read the window after next in advance (POSIX_FADV_WILLNEED) while missing pages of this one
    are read, so that the disk is never idle.
    """
    size = path.stat().st_size
    flags = resident_pages(path)
    scratch = memoryview(bytearray(1024 * 1024))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start in range(0, size, WINDOW_BYTES):
            if stop():
                return
            end = min(start + WINDOW_BYTES, size)
            window = flags[start // PAGE_BYTES : (end + PAGE_BYTES - 1) // PAGE_BYTES].translate(_LOWEST_BIT)
            if b"\0" in window:
                os.posix_fadvise(descriptor, end, WINDOW_BYTES, os.POSIX_FADV_WILLNEED)
                position = start
                while position < end and (count := os.preadv(descriptor, [scratch], position)):
                    position += count
            arrived(end - start)
    finally:
        os.close(descriptor)


def drop(path: Path) -> None:
    """Tell the kernel that nobody needs these pages soon; pages that are mapped or not yet written stay."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


_LOWEST_BIT = bytes(value & 1 for value in range(256))
