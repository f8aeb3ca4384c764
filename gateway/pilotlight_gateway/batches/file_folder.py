"""The bytes of files in one folder that is its owner's alone, each under the id that we gave it. Blocking.

No name of a client's becomes a path: ids are made here, and looked up before they are used.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pilotlight_protocol.errors import Unavailable

TRIAL_BYTES = 1 << 20
_TRIAL = "trial"
_FIT = re.compile(r"[a-z_]{1,16}[-_][0-9a-f]{32}").fullmatch


def new_id(prefix: str) -> str:
    """`file-` or `batch_`, and 128 random bits."""
    return f"{prefix}{secrets.token_hex(16)}"


class PartWriter:
    """Appends to a part of a file, whole pieces only: of one that the disk has no room for, nothing stays."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.size_bytes = file.seek(0, os.SEEK_END)

    def write(self, piece: bytes) -> int:
        """Raises Unavailable."""
        left = memoryview(piece)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self.size_bytes)
            raise _no_disk() from error
        self.size_bytes += len(piece)
        return len(piece)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class FileFolder:
    """What is a `part` of a file is not whole yet: an upload, or what a batch writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def writer(self, file_id: str, part: str) -> PartWriter:
        """Appends to what is there. Raises Unavailable."""
        try:
            descriptor = os.open(
                self._part(file_id, part), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except OSError as error:
            raise _no_disk() from error
        return PartWriter(FileIO(descriptor, "wb"))

    def try_write(self, file_id: str) -> None:
        """Whether the disk has room for what is about to be made. Raises Unavailable."""
        try:
            with self.writer(file_id, _TRIAL) as writer:
                writer.write(bytes(TRIAL_BYTES))
        finally:
            self.discard(file_id, _TRIAL)

    def written(self, file_id: str, part: str) -> Iterator[bytes]:
        """The lines that an earlier process wrote; half a line at the end is cut off."""
        path = self._part(file_id, part)
        if not path.exists():
            return
        whole_bytes = 0
        with path.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole_bytes += len(line)
                yield line
            file.truncate(whole_bytes)

    def publish(self, file_id: str, part: str, as_id: str) -> int:
        """The part is the file `as_id` from now on; its size in bytes. 0, and no file, where nothing was written.
        May be done again. Raises Unavailable."""
        path, target = self._part(file_id, part), self._path(as_id)
        if not path.exists():
            return target.stat().st_size if target.exists() else 0
        try:
            size = path.stat().st_size
            if size:
                with path.open("rb") as written:
                    os.fsync(written.fileno())
                path.replace(target)
            else:
                path.unlink()
        except OSError as error:
            raise _no_disk() from error
        return size

    def part_bytes(self, file_id: str, part: str) -> int:
        path = self._part(file_id, part)
        return path.stat().st_size if path.exists() else 0

    def discard(self, file_id: str, part: str) -> None:
        self._part(file_id, part).unlink(missing_ok=True)

    def delete(self, file_id: str) -> None:
        self._path(file_id).unlink(missing_ok=True)

    def opened(self, file_id: str) -> BinaryIO:
        try:
            return self._path(file_id).open("rb")
        except OSError as error:
            raise Unavailable("the file cannot be read; whoever runs this server has to look at its disk") from error

    def lines(self, file_id: str, longest_bytes: int) -> Iterator[tuple[int, bytes]]:
        """Numbers from 1, and lines that are not empty; of one that is longer, one byte more than `longest_bytes`."""
        with self.opened(file_id) as file:
            number = 0
            while line := file.readline(longest_bytes + 1):
                number += 1
                if len(line) > longest_bytes and not line.endswith(b"\n"):
                    while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                        pass
                if line.strip():
                    yield number, line.rstrip(b"\r\n")

    def sweep(self) -> None:
        """Uploads that an earlier process did not finish."""
        for unfinished in ("upload", _TRIAL):
            for path in self._folder.glob(f"*.{unfinished}"):
                path.unlink(missing_ok=True)

    def _path(self, file_id: str) -> Path:
        assert _FIT(file_id), "an id of ours"
        return self._folder / file_id

    def _part(self, file_id: str, part: str) -> Path:
        return self._path(file_id).with_suffix(f".{part}")


def _no_disk() -> Unavailable:
    return Unavailable("the file cannot be written; whoever runs this server has to look at its disk", retry_after_s=60)
