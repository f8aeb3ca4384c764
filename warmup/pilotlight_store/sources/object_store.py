"""Models in S3, Google Cloud Storage and Azure Blob Storage, through obstore (Rust's object_store).

Endpoints and keys are the operator's, from the environment obstore reads (`AWS_*`, `GOOGLE_*`, `AZURE_*`) or from
`options`; a URI names a bucket and a prefix only.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url

from pilotlight_protocol.manifest import MAX_FILES
from pilotlight_store.errors import SourceChanged, SourceInvalid, SourceMissing, SourceUnavailable, VerificationFailed
from pilotlight_store.sources.source import BLOCK_BYTES, Listing, RemoteFile

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")


class ObjectStoreSource:
    """`s3://bucket/prefix` and the like. The store's own retries (below ours) cover a single request's hiccups."""

    def __init__(self, uri: str, options: Mapping[str, str], *, timeout_s: float = 30.0) -> None:
        parts = urlsplit(uri)
        if not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
            raise SourceInvalid(f"{parts.scheme}://{parts.netloc}: write {parts.scheme}://bucket/folder")
        self._uri = f"{parts.scheme}://{parts.netloc}/{parts.path.strip('/')}".rstrip("/")
        client = {"read_timeout": f"{timeout_s}s", "connect_timeout": f"{timeout_s}s", "timeout": "1h"}
        # Client options replace those of the environment (AWS_ALLOW_HTTP). Endpoints are the operator's alone: http is
        # used where one says so and nowhere else.
        client["allow_http"] = "true"
        try:
            self._store = from_url(self._uri, client_options=client, retry_config={"max_retries": 2}, **dict(options))
        except (BaseError, ValueError, TypeError) as error:
            raise SourceInvalid(f"{self._uri}: {_short(error)}") from error
        self._aborted = False

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def identity(self) -> str:
        return self.uri

    def listing(self) -> Listing:
        with self._translated():
            pages = obstore.list(self._store)
            # One more than may be: a bucket of millions is not read to its end only to be refused.
            found = list(itertools.islice((entry for page in pages for entry in page), MAX_FILES + 1))
        files = tuple(
            RemoteFile(str(entry["path"]), int(entry["size"]), str(entry["path"]), etag=entry["e_tag"])
            for entry in found
            if not str(entry["path"]).endswith("/")
        )
        if not files:
            raise SourceMissing(f"{self._uri} is empty; check the bucket and the folder")
        return Listing(files)

    def blocks(self, file: RemoteFile, start: int, end: int) -> Iterator[memoryview]:
        with self._translated():
            result = obstore.get(self._store, file.locator, options={"range": (start, end), "if_match": file.etag})
            if result.meta["size"] != file.size_bytes:
                raise SourceChanged(f"{self._uri}/{file.name} changed while it was downloaded; start again")
            if tuple(result.range) != (start, end):
                raise VerificationFailed(f"{self._uri}/{file.name}: asked for {start}-{end}, got {result.range}")
            stream = iter(result.stream(min_chunk_size=BLOCK_BYTES))
        while not self._aborted:
            with self._translated():
                block = next(stream, None)
            if block is None:
                return
            yield memoryview(block)
        raise SourceUnavailable("the transfer was ended")

    def abort(self) -> None:
        self._aborted = True

    def close(self) -> None:
        self._aborted = True

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            raise SourceMissing(f"{self._uri}: not found; check the bucket and the folder") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise SourceMissing(f"{self._uri}: the credentials in the environment may not read it") from error
        except PreconditionError as error:
            raise SourceChanged(f"{self._uri} changed while it was downloaded; start again") from error
        except (BaseError, OSError) as error:
            raise SourceUnavailable(f"{self._uri}: {_short(error)}") from error


def _short(error: Exception) -> str:
    # obstore's messages show the request's URL, whose query may be a signature.
    return re.sub(r"\?\S*", "", str(error).partition("\n")[0])[:200]
