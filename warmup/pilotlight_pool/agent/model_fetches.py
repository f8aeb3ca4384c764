"""Downloads in threads of their own, so that nothing else ever waits for one.

Everybody who wants the same model waits for the same download, as a future and not as a thread. At most `at_once` run;
a few more wait their turn, and who comes after those is told when to ask again. A download that nobody has waited for
for a while is ended: what has arrived stays, and the next one goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.manifest import without_secrets
from pilotlight_store import Progress

log = logging.getLogger(__name__)
_AT_ONCE = 4
_MOST_WAITING = 64
# Longer than the `Retry-After` of a lease whose deadline passed during a download.
_LINGER_S = 10.0
_END_GRACE_S = 2.0
_UNKNOWN_REST_S = 30.0
_LONGEST_RETRY_AFTER_S = 600.0
Report = Callable[[Progress], None]
Fetch = Callable[[str, threading.Event, Report], None]


@dataclass(eq=False)
class _Download:
    """`waiters` None: it goes on whether anybody waits or not."""

    uri: str
    done: asyncio.Future[None]
    asked_s: float
    waiters: int | None = 0
    began_s: float | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    progress: Progress = field(default_factory=lambda: Progress("listing"))

    def left_s(self, now_s: float) -> float:
        """Until it is done, at the rate so far."""
        progress = self.progress
        if self.began_s is None or not progress.done_bytes or not progress.total_bytes:
            return _UNKNOWN_REST_S
        return (now_s - self.began_s) * (progress.total_bytes / progress.done_bytes - 1)


class ModelFetches:
    """Belongs to one event loop. `fetch(uri, cancel, report)` blocks; it ends soon after `cancel` is set.

    `linger_s`: how long a download goes on for nobody.
    """

    def __init__(
        self, fetch: Fetch, at_once: int = _AT_ONCE, most_waiting: int = _MOST_WAITING, linger_s: float = _LINGER_S
    ) -> None:
        self._fetch = fetch
        self._at_once = at_once
        self._most_waiting = most_waiting
        self._linger_s = linger_s
        self._wanted: dict[str, _Download] = {}
        self._waiting: dict[_Download, None] = {}
        self._running: set[_Download] = set()
        self._closed = False

    async def fetch(self, uri: str) -> None:
        """Raises what the download raises, and Unavailable when too many wait already."""
        download = self._wanted.get(uri) or self._ask(uri)
        if download.waiters is None:
            await asyncio.shield(download.done)
            return
        download.waiters += 1
        try:
            await asyncio.shield(download.done)
        finally:
            if download.waiters is not None:
                download.waiters -= 1
            if not download.done.done():
                asyncio.get_running_loop().call_later(self._linger_s, self._end_unwanted, download)

    async def refresh(self, uri: str, patience_s: float) -> None:
        """`fetch` for who can do without it: returns after `patience_s` at the latest, at once where it would have to
        wait its turn, and lets it go on then."""
        download = self._wanted.get(uri)
        if download is None:
            if len(self._running) >= self._at_once:
                return
            download = self._ask(uri)
        download.waiters = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, download.asked_s + patience_s - time.monotonic())):
                await asyncio.shield(download.done)

    async def close(self) -> None:
        """End every download; returns when they have ended, or after two seconds: their threads keep no process."""
        self._closed = True
        for download in list(self._waiting):
            self._settle(download, Unavailable("the pool is shutting down"))
        ending = list(self._running)
        for download in ending:
            download.cancel.set()
        if ending:
            await asyncio.wait([download.done for download in ending], timeout=_END_GRACE_S)

    def _ask(self, uri: str) -> _Download:
        if self._closed:
            raise Unavailable("the pool is shutting down")
        if len(self._waiting) >= self._most_waiting:
            now_s = time.monotonic()
            soonest_s = min((download.left_s(now_s) for download in self._running), default=_UNKNOWN_REST_S)
            raise Unavailable(
                f"{len(self._running)} downloads run and {len(self._waiting)} wait; ask again later",
                retry_after_s=min(max(1.0, soonest_s), _LONGEST_RETRY_AFTER_S),
            )
        download = _Download(uri, asyncio.get_running_loop().create_future(), time.monotonic())
        # Where everybody has left, nobody else asks for its outcome.
        download.done.add_done_callback(lambda done: done.exception())
        self._wanted[uri] = download
        self._waiting[download] = None
        self._start_next()
        return download

    def _start_next(self) -> None:
        while self._waiting and len(self._running) < self._at_once:
            download = next(iter(self._waiting))
            del self._waiting[download]
            self._running.add(download)
            download.began_s = time.monotonic()
            loop = asyncio.get_running_loop()
            threading.Thread(target=self._run, args=(download, loop), name="model-fetch", daemon=True).start()

    def _run(self, download: _Download, loop: asyncio.AbstractEventLoop) -> None:
        def report(progress: Progress) -> None:
            download.progress = progress

        failure: Exception | None = None
        try:
            self._fetch(download.uri, download.cancel, report)
        except Exception as error:
            failure = error
        # The loop may have ended without us.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._settle, download, failure)

    def _settle(self, download: _Download, failure: Exception | None) -> None:
        self._running.discard(download)
        self._waiting.pop(download, None)
        self._forget(download)
        if failure is None:
            download.done.set_result(None)
        else:
            download.done.set_exception(failure)
        if not self._closed:
            self._start_next()

    def _end_unwanted(self, download: _Download) -> None:
        if download.waiters != 0 or download.done.done():
            return
        if download in self._waiting:
            self._settle(download, Unavailable("nobody waits for it any more", retry_after_s=1.0))
        elif not download.cancel.is_set():
            log.info("nobody waits for %s any more: its download is ended", without_secrets(download.uri))
            download.cancel.set()
            # Who asks for it now begins anew: this one may take a moment to end.
            self._forget(download)

    def _forget(self, download: _Download) -> None:
        if self._wanted.get(download.uri) is download:
            del self._wanted[download.uri]
