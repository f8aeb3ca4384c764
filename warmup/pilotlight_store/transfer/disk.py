"""A download's files on disk: pre-allocated, with a journal of the chunks that arrived, until they are published.

The journal is appended to after a chunk was written, without fsync: a killed process loses nothing the kernel holds. A
machine that lost power may have a journal that promises more than its disk has, so the journal names the boot it was
written in. In another boot a file whose hash was promised goes on: what the disk lost is found by the hash, which is
taken from what the disk gives back. A file without a promise is fetched anew: its hash would be that of the loss.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from pilotlight_protocol.manifest import unsafe_name
from pilotlight_store.errors import SourceRefused, StoreFull
from pilotlight_store.sources.source import RemoteFile
from pilotlight_store.transfer.plan import Interval, merged

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def boot_id() -> str | None:
    """Of the kernel that runs now, None where it does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


def journal_intervals(path: Path, sizes: Sequence[int]) -> list[tuple[Interval, ...]]:
    """What the journal at `path` says has arrived, per file. A torn last line and nonsense are left out."""
    done: list[list[Interval]] = [[] for _ in sizes]
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        lines = []
    for line in lines:
        fields = line.split()
        if not all(field.isdigit() for field in fields) or not fields or int(fields[0]) >= len(sizes):
            continue
        number = int(fields[0])
        if len(fields) == 1:
            done[number] = []
        elif len(fields) == 3 and int(fields[1]) < int(fields[2]) <= sizes[number]:
            done[number].append((int(fields[1]), int(fields[2])))
    return [merged(intervals) for intervals in done]


class Staging:
    """`folder/files/…` and `folder/journal`. One process at a time (the store's lock); many threads."""

    def __init__(self, folder: Path, files: Sequence[RemoteFile]) -> None:
        self.folder = folder
        self.content = folder / "files"
        self._files = files
        self._descriptors: list[int] = []
        self._journal = -1

    def open(self) -> list[tuple[Interval, ...]]:
        """Make or find the files at their full size; returns what has arrived before. Raises StoreFull."""
        self.content.mkdir(parents=True, exist_ok=True)
        journal = self.folder / "journal"
        done = journal_intervals(journal, [file.size_bytes for file in self._files])
        same_boot = _written_in_this_boot(journal)
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        for number, file in enumerate(self._files):
            path = self.path(file.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            self._descriptors.append(descriptor)
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes != file.size_bytes or not (same_boot or file.promised):
                os.ftruncate(descriptor, file.size_bytes)
                done[number] = ()
                self.forget(number)
            if file.size_bytes:
                self._guard(os.posix_fallocate, descriptor, 0, file.size_bytes)
        if not same_boot:
            self._guard(os.write, self._journal, f"\nboot {boot_id()}\n".encode())
        return done

    def path(self, name: str) -> Path:
        """Where `name` lies. The names were checked when they were listed; this is the last door."""
        if reason := unsafe_name(name):
            raise SourceRefused(f"file {name!r} is refused: {reason}")
        return self.content / name

    def write(self, number: int, block: memoryview, position: int) -> None:
        """All of `block` at `position`. Raises StoreFull."""
        while len(block):
            written = self._guard(os.pwrite, self._descriptors[number], block, position)
            position += written
            block = block[written:]

    def read_into(self, number: int, buffer: memoryview, position: int) -> int:
        return os.preadv(self._descriptors[number], [buffer], position)

    def record(self, number: int, start: int, end: int) -> None:
        """Bytes [start, end) of a file are written."""
        self._guard(os.write, self._journal, b"%d %d %d\n" % (number, start, end))

    def forget(self, number: int) -> None:
        """Nothing of a file is any good."""
        self._guard(os.write, self._journal, b"%d\n" % number)

    def close(self) -> None:
        for descriptor in [*self._descriptors, self._journal]:
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptors, self._journal = [], -1

    def _guard(
        self, call: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> _Result:
        try:
            return call(*args, **kwargs)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            free = shutil.disk_usage(self.folder).free
            total = sum(file.size_bytes for file in self._files)
            raise StoreFull(
                f"the disk is full: the model needs {total / 1e9:.3f} GB, {free / 1e9:.3f} GB are free at the store; "
                "make room or give a store on a larger disk"
            ) from error


def _written_in_this_boot(journal: Path) -> bool:
    """The last line that names a boot counts: each boot that goes on with a download adds its own."""
    try:
        lines = journal.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return False
    boots = [line for line in lines if line.startswith(b"boot ")]
    current = boot_id()
    return current is not None and bool(boots) and boots[-1] == f"boot {current}".encode()


def flush(folder: Path) -> None:
    """Wait until the disk has every file below `folder`, and the folders themselves."""
    for path in [*folder.rglob("*"), folder, folder.parent]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_file(path: Path, body: bytes) -> None:
    """Write `path` so that a reader sees the old or the new content, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        temporary.write_bytes(body)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
