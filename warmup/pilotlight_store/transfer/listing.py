"""Asks a source what it has: again where that can help, and not for ever."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

from pilotlight_protocol.errors import PilotlightError
from pilotlight_store.errors import DownloadCancelled, SourceUnavailable
from pilotlight_store.sources.source import Source
from pilotlight_store.transfer.names import Part
from pilotlight_store.transfer.retry import GiveUp, RetryRules, RetryState, after_failure
from pilotlight_store.transfer.wanted import Wanted, wanted_files

_LOOK_AGAIN_S = 0.1


def listed(source: Source, part: Part, rules: RetryRules, longest_s: float, cancel: threading.Event) -> Wanted:
    """What is to be downloaded. Raises the source's errors, SourceUnavailable after `longest_s`, DownloadCancelled."""
    end_s = time.monotonic() + longest_s
    with _aborting(source, lambda: cancel.is_set() or time.monotonic() > end_s) as aborted:
        wanted: Wanted | PilotlightError
        try:
            wanted = _listed(source, part, rules, aborted)
        except PilotlightError as error:
            wanted = error
    cause = wanted if isinstance(wanted, PilotlightError) else None
    if cancel.is_set():
        raise DownloadCancelled("the download was ended; the next one goes on from here") from cause
    if aborted.is_set():
        raise SourceUnavailable(
            f"{source.uri}: listing its files took longer than {longest_s:.0f} s; try again later"
        ) from cause
    if isinstance(wanted, PilotlightError):
        raise wanted
    return wanted


def _listed(source: Source, part: Part, rules: RetryRules, aborted: threading.Event) -> Wanted:
    state, failures = RetryState(), 0
    while True:
        try:
            return wanted_files(source, source.listing(), part)
        except SourceUnavailable as error:
            failures += 1
            jitter = random.random()  # noqa: S311
            decision, state = after_failure(rules, state, failures, jitter, error.retry_after_s)
            if isinstance(decision, GiveUp) or aborted.is_set():
                raise
            aborted.wait(decision)


@contextlib.contextmanager
def _aborting(source: Source, over: Callable[[], bool]) -> Iterator[threading.Event]:
    """Ends whatever the source does once it is `over`; the event says that this happened.

    A timeout of each read alone would not: a server that drips bytes keeps all of them.
    """
    done, aborted = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_AGAIN_S):
            if over():
                aborted.set()
                source.abort()  # again and again: a connection may just be being made

    watcher = threading.Thread(target=watch, name="store-listing-watch")
    watcher.start()
    try:
        yield aborted
    finally:
        done.set()
        watcher.join()
