"""Reads a model that is on disk and compares it with its manifest, one thread per file."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.manifest import Manifest, ManifestFile
from pilotlight_store.errors import DownloadCancelled
from pilotlight_store.sources.source import BLOCK_BYTES

_NOT_THE_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def verify_files(
    folder: Path, manifest: Manifest, threads: int, stop: Callable[[], bool], seen: Callable[[int], None]
) -> tuple[str, ...]:
    """What is wrong, one sentence per file; empty when every file is as promised.

    Raises DownloadCancelled, and Unavailable where a file cannot be read now: that says nothing about its bytes.
    """

    def check(file: ManifestFile) -> str | None:
        try:
            return _difference(folder, file, stop, seen)
        except OSError as error:
            if error.errno in _NOT_THE_FILE:
                return f"{file.name}: {error.strerror}"
            raise Unavailable(f"{file.name} cannot be read: {error.strerror}; verify the model again") from error

    with ThreadPoolExecutor(threads, thread_name_prefix="store-verify") as pool:
        differences = list(pool.map(check, manifest.files))
    return tuple(difference for difference in differences if difference)


def _difference(folder: Path, file: ManifestFile, stop: Callable[[], bool], seen: Callable[[int], None]) -> str | None:
    buffer = memoryview(bytearray(BLOCK_BYTES))
    sha256 = hashlib.sha256()
    descriptor = os.open(folder / file.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if (size := os.fstat(descriptor).st_size) != file.size_bytes:
            return f"{file.name} has {size} bytes, promised are {file.size_bytes}"
        while count := os.readv(descriptor, [buffer]):
            if stop():
                raise DownloadCancelled("the verification was ended")
            sha256.update(buffer[:count])
            seen(count)
    finally:
        os.close(descriptor)
    if sha256.hexdigest() != file.sha256:
        return f"{file.name} has sha256 {sha256.hexdigest()}, promised is {file.sha256}"
    return None
