"""Models on a mounted file system: `file:///folder`, and `pvc://claim/folder` below the folder of mounted claims."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pilotlight_protocol.manifest import MAX_FILES
from pilotlight_protocol.model_reference import ModelReference
from pilotlight_store.errors import SourceChanged, SourceMissing, SourceRefused, SourceUnavailable
from pilotlight_store.sources.source import BLOCK_BYTES, Listing, RemoteFile


class LocalFiles:
    """A folder; symbolic links are followed only while they stay in it.

    `claim`: the persistent volume claim that the folder must lie in, whatever links lead there. A claim belongs to a
    tenant, who can put any link into it.
    """

    def __init__(self, uri: str, folder: Path, claim: Path | None = None) -> None:
        self._uri = uri
        self._folder = folder
        self._claim = claim
        self._aborted = False

    @classmethod
    def of_claim(cls, reference: ModelReference, claims: Path) -> LocalFiles:
        """`reference`: of the scheme pvc. `claims`: where claims are mounted, one folder each."""
        return cls(reference.uri, claims / reference.path, claims / reference.path.partition("/")[0])

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def identity(self) -> str:
        return self._uri

    def listing(self) -> Listing:
        try:
            root = self._root()
            found = (os.path.relpath(Path(folder) / name, root) for folder, _, files in os.walk(root) for name in files)
            names = list(itertools.islice(found, MAX_FILES + 1))
            return Listing(tuple(file for name in sorted(names) if (file := self._file(root, name)) is not None))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceMissing(f"{self._uri}: no such folder on this machine") from error
        except OSError as error:
            raise SourceUnavailable(f"{self._uri}: {error.strerror}") from error

    def blocks(self, file: RemoteFile, start: int, end: int) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(BLOCK_BYTES))
        try:
            descriptor = os.open(file.locator, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SourceChanged(f"{self._uri}/{file.name}: {error.strerror}; start again") from error
        try:
            # A folder on the way may have become a link since it was listed.
            opened = Path(f"/proc/self/fd/{descriptor}").readlink()
            if str(opened) != file.locator or _etag(os.fstat(descriptor)) != file.etag:
                raise SourceChanged(f"{self._uri}/{file.name} changed while it was copied; start again")
            while start < end and not self._aborted:
                count = os.preadv(descriptor, [buffer[: min(BLOCK_BYTES, end - start)]], start)
                if count == 0:
                    raise SourceChanged(f"{self._uri}/{file.name} became shorter while it was copied; start again")
                start += count
                yield buffer[:count]
        except OSError as error:
            raise SourceUnavailable(f"{self._uri}/{file.name}: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def abort(self) -> None:
        self._aborted = True

    def close(self) -> None:
        self._aborted = True

    def _root(self) -> Path:
        root = self._folder.resolve(strict=True)
        if self._claim is not None and (
            self._claim.is_symlink() or not root.is_relative_to(self._claim.resolve(strict=True))
        ):
            raise SourceRefused(f"{self._uri} is a link that leaves the claim; give a folder with the files themselves")
        return root

    def _file(self, root: Path, name: str) -> RemoteFile | None:
        real = (root / name).resolve(strict=True)
        if not real.is_relative_to(root):
            raise SourceRefused(
                f"{self._uri}/{name} is a link that leaves the folder; give a folder with the files themselves"
            )
        status = real.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        return RemoteFile(name, status.st_size, str(real), etag=_etag(status))


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
