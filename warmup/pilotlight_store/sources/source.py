"""The one seam to where models come from: a source lists its files and streams ranges of them.

Adapters: `http_source`, `hub`, `object_store`, `local_files`. They block (each worker is a thread), translate their
library's errors into `errors`, and never write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

BLOCK_BYTES = 256 * 1024  # stays in a core's L2 cache between the socket, the page cache and sha256


@dataclass(frozen=True)
class RemoteFile:
    """One file of a source. `etag`, `sha256` (hex) and `git_sha1` (hex, of the git blob) where the source knows them.

    `locator` is the adapter's own: a URL, an object's key, a path. It may hold a signature: never logged or stored.
    """

    name: str
    size_bytes: int
    locator: str
    etag: str | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    ranged: bool = True

    @property
    def promised(self) -> bool:
        """Whether the content can be told from any other, once it is here."""
        return self.sha256 is not None or self.git_sha1 is not None


@dataclass(frozen=True)
class Listing:
    """A source at one moment. `revision` is a commit where there is one; `license` as the source states it.

    `variant` tells apart the models that a source has at one `uri` (a query that chooses one); it holds no secret.
    """

    files: tuple[RemoteFile, ...]
    revision: str = ""
    license: str | None = None
    variant: str = ""


class Source(Protocol):
    """Thread-safe: `blocks` runs in many threads at once."""

    @property
    def uri(self) -> str:
        """Where from, without secrets."""

    @property
    def identity(self) -> str:
        """`uri`, and a hash of what else its owner must know to be given the model. Holds no secret."""

    def listing(self) -> Listing:
        """Every file that is there. Raises SourceMissing, SourceRefused, SourceUnavailable."""

    def blocks(self, file: RemoteFile, start: int, end: int) -> Iterator[memoryview]:
        """Bytes [start, end) in order, in views that are valid until the next one is asked for.

        Raises SourceUnavailable where trying again can help, SourceChanged when the file is not the listed one any
        more, VerificationFailed when the source contradicts itself.
        """

    def abort(self) -> None:
        """End every transfer at once; from any thread."""

    def close(self) -> None:
        """Free connections, once no transfer runs."""
