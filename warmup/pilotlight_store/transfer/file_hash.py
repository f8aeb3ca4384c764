"""A file's hash as it grows, and whether it is what the source promised."""

from __future__ import annotations

import hashlib
import threading

from pilotlight_store.sources.source import RemoteFile


class FileHash:
    """A file's sha256 (and git's object id where it is promised) up to `position`. One thread at a time, by `lock`."""

    def __init__(self, remote: RemoteFile) -> None:
        self._remote = remote
        self.lock = threading.Lock()
        self.restart()

    def restart(self) -> None:
        self.position = 0
        self.sha256 = hashlib.sha256()
        self._git_sha1 = None
        if self._remote.git_sha1 is not None:
            # An identity, not a defence: sha1 over a header and the content is what git calls a file.
            self._git_sha1 = hashlib.sha1(b"blob %d\0" % self._remote.size_bytes, usedforsecurity=False)

    def update(self, block: memoryview) -> None:
        self.sha256.update(block)
        if self._git_sha1 is not None:
            self._git_sha1.update(block)
        self.position += len(block)

    def as_promised(self) -> bool:
        promised = self._remote.sha256 in {None, self.sha256.hexdigest()}
        return promised and (self._git_sha1 is None or self._git_sha1.hexdigest() == self._remote.git_sha1)
