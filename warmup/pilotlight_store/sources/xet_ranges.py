"""Ranges of files in a hub's Xet storage, through hf-xet's ordered byte streams.

Xet keeps a file as chunks that many files share; hf-xet asks a content-addressed store where they are, fetches and
joins them. It opens its own connections: the store's address is checked before it is handed over, what the store sends
it on to is not.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilotlight_store.errors import SourceMissing, SourceUnavailable, VerificationFailed
from pilotlight_store.sources.source import BLOCK_BYTES, RemoteFile

# hf-xet would buffer gigabytes ahead of the reader, and retry for minutes below our own retries. Its telemetry would
# tell the hub what is fetched, and when.
CONFIG = {
    "telemetry.enabled": False,
    "client.retry_max_attempts": 1,
    "client.connect_timeout": "30s",
    "client.read_timeout": "60s",
    "reconstruction.download_buffer_size": "128mb",
    "reconstruction.download_buffer_perfile_size": "64mb",
    "reconstruction.download_buffer_limit": "256mb",
    "reconstruction.min_prefetch_buffer": "64mb",
    "reconstruction.min_reconstruction_fetch_size": "64mb",
}


@dataclass(frozen=True)
class XetConnection:
    """`expires_s` in seconds since 1970; `refresh_url` gives the next token to whoever sends `refresh_headers`."""

    endpoint: str
    token: str = field(default="", repr=False)
    expires_s: int = 0
    refresh_url: str = ""
    refresh_headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def decode_connection(body: bytes, refresh_url: str, refresh_headers: Mapping[str, str]) -> XetConnection:
    """From the hub's answer to `xet-read-token`. Raises VerificationFailed."""
    try:
        answer = json.loads(body)
        return XetConnection(
            str(answer["casUrl"]), str(answer["accessToken"]), int(answer["exp"]), refresh_url, refresh_headers
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationFailed("the hub's answer about its Xet storage makes no sense") from error


class XetRanges:
    """`connect` is called once, by the first range; None means that the hub does not give its Xet storage away."""

    def __init__(self, connect: Callable[[], XetConnection | None]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._group: Any = None
        self._asked = False
        self._aborted = False

    def open(self) -> bool:
        """Whether ranges can be had this way. Raises what `connect` raises."""
        with self._lock:
            if not self._asked:
                connection = self._connect()
                self._group = None if connection is None else _group(connection)
                self._asked = True
            return self._group is not None

    def blocks(self, file: RemoteFile, xet_hash: str, start: int, end: int) -> Iterator[memoryview]:
        """Bytes [start, end) of the file; see `source.Source.blocks`. `open` was asked before."""
        from hf_xet import XetFileInfo

        left = end - start
        with _translated(file.name):
            stream = iter(self._group.download_stream(XetFileInfo(xet_hash, file.size_bytes), start=start, end=end))
        while not self._aborted:
            with _translated(file.name):
                piece = next(stream, None)
            if piece is None:
                break
            view = memoryview(piece)
            left -= len(view)
            for position in range(0, len(view), BLOCK_BYTES):
                yield view[position : position + BLOCK_BYTES]
        if left > 0:  # hf-xet ends some failed and all aborted streams without a word
            raise SourceUnavailable(f"{file.name}: the hub's Xet storage ended {left} bytes early")

    def abort(self) -> None:
        self._aborted = True
        group = self._group
        if group is not None:
            group.abort()


def _group(connection: XetConnection) -> Any:
    from hf_xet import XetConfig, XetSession

    with _translated(connection.endpoint):
        session = XetSession(config=XetConfig().with_config(CONFIG))
        return session.new_download_stream_group(
            endpoint=connection.endpoint,
            token=connection.token or None,
            token_expiry_unix_secs=connection.expires_s if connection.token else None,
            token_refresh_url=connection.refresh_url or None,
            token_refresh_headers=dict(connection.refresh_headers) if connection.refresh_url else None,
        )


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    from hf_xet import XetAuthenticationError, XetObjectNotFoundError

    try:
        yield
    except (XetAuthenticationError, XetObjectNotFoundError) as error:
        raise SourceMissing(f"{name}: the hub's Xet storage does not have it, or not for this token") from error
    # Rust's errors arrive as OSError, RuntimeError and ValueError; their text may show a signed URL.
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceUnavailable(f"{name}: the hub's Xet storage fails ({type(error).__name__})") from error
