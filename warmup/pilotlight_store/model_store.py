"""The model store of one node: composition of sources, transfer, budgets and page cache.

Processes share a store by its folder alone: every decision about what is there is taken under `store.lock`, every
download under its own lock, and a hold is a locked file, so nothing has to be cleaned up after a process that died.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

from pilotlight_protocol.errors import ModelNotFound
from pilotlight_protocol.manifest import MANIFEST_NAME, ManifestFile, broken_promises, encode_manifest
from pilotlight_store.errors import DownloadCancelled, SourceChanged, SourceUnavailable, VerificationFailed
from pilotlight_store.published.catalog import Catalog, Hold
from pilotlight_store.published.checkpoint import describe
from pilotlight_store.published.locks import FileLock
from pilotlight_store.published.published_models import Model, PublishedModels, Tier
from pilotlight_store.sources.source import Source
from pilotlight_store.sources.sources import SourceSettings, open_source
from pilotlight_store.transfer.bandwidth import BandwidthCap
from pilotlight_store.transfer.bandwidth_gate import BandwidthGate
from pilotlight_store.transfer.disk import Staging, journal_intervals
from pilotlight_store.transfer.listing import listed
from pilotlight_store.transfer.names import Part
from pilotlight_store.transfer.transfer import Transfer, TransferSettings
from pilotlight_store.transfer.wanted import Wanted, identity_of

log = logging.getLogger(__name__)
_POLL_S = 0.1


@dataclass(frozen=True)
class Progress:
    """`state`: listing, waiting (another process downloads), downloading, verifying, warming or ready."""

    state: str
    done_bytes: int = 0
    total_bytes: int = 0


class Options(TypedDict, total=False):
    """`part`: all of the model, or its tokenizer's files.

    `pin`: keep the model until it is unpinned. `on_progress` is called by one thread at a time, never two at once.
    Setting `cancel` ends the call with DownloadCancelled."""

    part: Part
    pin: bool
    on_progress: Callable[[Progress], None]
    cancel: threading.Event


@dataclass(frozen=True)
class StoreSettings:
    """`disk_budget_bytes` None: what the disk has free, less 5 %. `ram_budget_bytes` None: half of the memory.

    `bandwidth` caps this process's downloads together. `listing_s`: how long a source may take to say what it has.
    """

    folder: Path
    disk_budget_bytes: int | None = None
    ram_budget_bytes: int | None = None
    bandwidth: BandwidthCap | None = None
    listing_s: float = 600.0
    sources: SourceSettings = field(default_factory=SourceSettings)
    transfer: TransferSettings = field(default_factory=TransferSettings)


@dataclass(frozen=True)
class _Call:
    """One `ensure`: whom to tell, and how to end it."""

    report: Callable[[Progress], None]
    cancel: threading.Event

    def check(self) -> None:
        if self.cancel.is_set():
            raise DownloadCancelled("the download was ended; the next one goes on from here")


class Store:
    """Thread-safe. `close` waits until published models are on the disk for good."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._gate = BandwidthGate(settings.bandwidth)
        self._catalog = Catalog(settings.folder)
        self._published = PublishedModels(self._catalog, settings.disk_budget_bytes, settings.ram_budget_bytes)

    def ensure(self, uri: str, tier: Tier = "disk", **options: Unpack[Options]) -> Model:
        """The model at `uri`, downloaded and verified where it was not there, and in memory for `tier="ram"`.

        Blocks. Nothing keeps the model from eviction once this has returned: whoever goes on to use it takes `acquire`.
        Raises InvalidInput, SourceRefused, SourceMissing, SourceUnavailable, SourceChanged, VerificationFailed,
        StoreFull and DownloadCancelled.
        """
        hold, model = self.acquire(uri, tier, **options)
        hold.release()
        return model

    def acquire(self, uri: str, tier: Tier = "disk", **options: Unpack[Options]) -> tuple[Hold, Model]:
        """`ensure` with a hold, so that nobody can evict the model in between."""
        call = _Call(options.get("on_progress", lambda progress: None), options.get("cancel") or threading.Event())
        source = open_source(uri, self._settings.sources)
        try:
            hold = self._on_disk(source, options.get("part", "all"), call)
        finally:
            source.close()
        try:
            if options.get("pin"):
                self._published.pin(hold.digest, True)
            self._published.touch(hold.digest)
            if tier == "ram":
                self._warm(hold.digest, call)
            model = self._published.model(hold.digest)
            call.report(Progress("ready", model.manifest.size_bytes, model.manifest.size_bytes))
        except BaseException:
            hold.release()
            raise
        return hold, model

    def last_fetched(self, uri: str) -> Hold | None:
        """`hold` of what was last fetched from there, None where nothing is left of it. Nothing is asked outside."""
        source = open_source(uri, self._settings.sources)
        source.close()
        digest = self._catalog.last_known(source.identity)
        try:
            return self.hold(digest) if digest is not None else None
        except ModelNotFound:
            return None

    def hold(self, digest: str) -> Hold:
        """Keep a model from eviction until `release`, or until this process ends. Raises ModelNotFound, also for a
        model that a crash of the machine may have hurt: `acquire` reads it first."""
        if not self._published.trusted(digest):
            raise ModelNotFound(f"model {digest} has to be verified first; fetch it with `pilotlight prefetch`")
        return self._published.hold(digest)

    def pin(self, digest: str, pinned: bool = True) -> None:
        """Keep a model from eviction until it is unpinned. Raises ModelNotFound."""
        self._published.pin(digest, pinned)

    def list(self) -> tuple[Model, ...]:
        """Every published model, the last used first."""
        return self._published.models()

    def tier(self, digest: str) -> Tier:
        """Where the model is now; memory is measured. Raises ModelNotFound."""
        return self._published.model(digest).tier

    def verify(self, digest: str, cancel: threading.Event | None = None) -> tuple[str, ...]:
        """What is wrong with a published model's bytes; a model with anything wrong is withdrawn."""
        stop = (cancel or threading.Event()).is_set
        return self._published.verify(digest, self._settings.transfer.workers, stop, lambda seen, total: None)

    def remove(self, digest: str) -> None:
        """Raises ModelNotFound, and Conflict for a pinned or held one."""
        self._published.remove(digest)

    def close(self) -> None:
        self._published.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _warm(self, digest: str, call: _Call) -> None:
        self._published.warm(
            digest, call.cancel.is_set, lambda done, total: call.report(Progress("warming", done, total))
        )
        call.check()

    def _on_disk(self, source: Source, part: Part, call: _Call) -> Hold:
        call.report(Progress("listing"))
        try:
            wanted = listed(source, part, self._settings.transfer.retries, self._settings.listing_s, call.cancel)
        except SourceUnavailable as error:
            whole, found = (self._catalog.last_known(identity_of(source, kind)) for kind in ("all", part))
            hold = self._held_here(whole or found, call)
            if hold is None:
                raise
            log.warning("%s; the model that was fetched from there last is used", error.message)
            return hold
        hold = self._held_here(self._catalog.known(wanted.whole_key) or self._catalog.known(wanted.key), call)
        if hold is not None:
            return hold
        with self._single_flight(wanted, call):
            # Another process may have downloaded it while this one waited for the lock.
            hold = self._held_here(self._catalog.known(wanted.key), call)
            return hold or self._download(source, wanted, call)

    @contextlib.contextmanager
    def _single_flight(self, wanted: Wanted, call: _Call) -> Iterator[None]:
        """One process per node downloads; the others wait and report its progress."""
        lock = None
        while lock is None:
            call.check()
            lock = FileLock.try_acquire(self._catalog.staging_lock(wanted.key))
            if lock is None:
                done = journal_intervals(
                    self._catalog.staging(wanted.key) / "journal", [file.size_bytes for file in wanted.files]
                )
                done_bytes = sum(end - start for intervals in done for start, end in intervals)
                call.report(Progress("waiting", done_bytes, wanted.size_bytes))
                call.cancel.wait(_POLL_S)
        try:
            yield
        finally:
            lock.release(remove=True)

    def _download(self, source: Source, wanted: Wanted, call: _Call) -> Hold:
        total_bytes = wanted.size_bytes
        self._published.reserve(wanted.key, wanted.uri, tuple(file.size_bytes for file in wanted.files))
        staging = Staging(self._catalog.staging(wanted.key), wanted.files)
        started_s = time.monotonic()
        call.report(Progress("downloading", 0, total_bytes))
        transfer = Transfer(source, wanted.files, staging, self._settings.transfer, self._gate, call.cancel)
        try:
            hashes = transfer.run(lambda: call.report(Progress("downloading", transfer.done_bytes, total_bytes)))
            files = tuple(
                ManifestFile(file.name, file.size_bytes, sha256)
                for file, sha256 in zip(wanted.files, hashes, strict=True)
            )
            listing = wanted.listing
            found = describe(staging.content, files, wanted.uri, listing.revision, listing.license, wanted.part)
            if wanted.shipped is not None and wanted.part == "all" and (lies := broken_promises(wanted.shipped, found)):
                raise VerificationFailed(f"{wanted.uri}: the shipped manifest lies: {'; '.join(lies)}")
        except BaseException as error:
            # What is not wanted in any form, or can be of no use any more: the next attempt must not go on from it.
            if isinstance(error, VerificationFailed | SourceChanged) or not wanted.lasting:
                self._catalog.discard(wanted.key)
            raise
        staging.path(MANIFEST_NAME).write_bytes(encode_manifest(found))
        return self._published.publish(wanted.key, wanted.identity, found, time.monotonic() - started_s)

    def _held_here(self, digest: str | None, call: _Call) -> Hold | None:
        """A hold on a published model, or None when it must be downloaded (again).

        A model that a crash of the machine may have hurt is read first, and withdrawn if it was.
        """
        if digest is None:
            return None
        try:
            hold = self._published.hold(digest)
        except ModelNotFound:
            return None
        try:
            if self._published.trusted(digest) or not self._published.verify(
                digest,
                self._settings.transfer.workers,
                call.cancel.is_set,
                lambda seen, total: call.report(Progress("verifying", seen, total)),
            ):
                return hold
        except BaseException:
            hold.release()
            raise
        hold.release()
        return None
