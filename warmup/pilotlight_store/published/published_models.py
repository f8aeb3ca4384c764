"""What is done with models that are there: published, held, pinned, warmed, verified, evicted, removed.

Knows nothing of sources or networks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from pilotlight_protocol.errors import Conflict, ModelNotFound
from pilotlight_protocol.manifest import MANIFEST_NAME, Manifest, ManifestInvalid, decode_manifest
from pilotlight_store.errors import StoreFull
from pilotlight_store.published import page_cache, records
from pilotlight_store.published.catalog import Catalog, Hold
from pilotlight_store.published.eviction import Evict, Refuse
from pilotlight_store.published.records import ModelRecord, Plan, SourceRecord
from pilotlight_store.published.room import room_in_ram, room_on_disk
from pilotlight_store.published.verification import verify_files
from pilotlight_store.transfer.disk import boot_id, flush

Tier = Literal["disk", "ram"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A published model as it is now. `last_used_s` in seconds since 1970; `holds` of all processes."""

    digest: str
    path: Path
    manifest: Manifest
    tier: Tier
    resident_bytes: int
    pinned: bool
    holds: int
    frequency: int
    last_used_s: float


class PublishedModels:
    """Raises ModelNotFound for a digest that is not published."""

    def __init__(self, catalog: Catalog, disk_budget_bytes: int | None, ram_budget_bytes: int | None) -> None:
        self._catalog = catalog
        self._disk_budget_bytes = disk_budget_bytes
        self._ram_budget_bytes = ram_budget_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        self._boot_id = boot_id() or "unknown"
        self._flushers: list[threading.Thread] = []

    def trusted(self, digest: str) -> bool:
        """Whether no crash of the machine can have taken bytes since the model was published."""
        record = self._catalog.record(digest)
        return record is None or record.flushed or record.boot_id == self._boot_id

    def models(self) -> tuple[Model, ...]:
        found = []
        for path in (self._catalog.folder / "models").glob("*"):
            with contextlib.suppress(ModelNotFound):
                found.append(self.model(path.name))
        return tuple(sorted(found, key=lambda model: -model.last_used_s))

    def model(self, digest: str) -> Model:
        path, record = self._catalog.path(digest), self._catalog.must(digest)
        manifest = self._manifest(digest)
        try:
            resident = sum(page_cache.resident_bytes(path / file.name) for file in manifest.files)
        except OSError as error:
            raise ModelNotFound(f"model {digest} is not in the store; fetch it with `pilotlight prefetch`") from error
        tier: Tier = "ram" if resident >= page_cache.RESIDENT_SHARE * manifest.size_bytes else "disk"
        return Model(
            digest, path, manifest, tier, resident, record.pinned, self._catalog.holds(digest), record.frequency,
            record.last_used_s,
        )  # fmt: skip

    def _manifest(self, digest: str) -> Manifest:
        self._catalog.must(digest)
        try:
            return decode_manifest((self._catalog.path(digest) / MANIFEST_NAME).read_bytes())
        except (OSError, ManifestInvalid) as error:
            raise ModelNotFound(f"model {digest} is not in the store; fetch it with `pilotlight prefetch`") from error

    def reserve(self, key: str, uri: str, sizes_bytes: tuple[int, ...]) -> None:
        """Make room for a download and keep it; other downloads count it. Raises StoreFull with the numbers.

        Downloads that ended halfway give way before models do.
        """
        with self._catalog.locked():
            self._catalog.sweep(key)
            abandoned = self._catalog.abandoned(key)
            for count in range(len(abandoned) + 1):
                own = {key, *abandoned[:count]}
                decision = room_on_disk(self._catalog, own, sum(sizes_bytes), self._disk_budget_bytes)
                if isinstance(decision, Evict) and not decision.digests:
                    break
            if isinstance(decision, Refuse):
                raise StoreFull(f"{uri}: {decision.reason}")
            for other in own - {key}:
                self._catalog.discard(other)
            for digest in decision.digests:
                self._catalog.withdraw(digest, "evicted to make room")
            records.write(self._catalog.staging(key) / "plan.json", Plan(uri, sizes_bytes))
            clocks = self._catalog.clocks()
            self._catalog.write_clocks(msgspec.structs.replace(clocks, disk=decision.clock))
        self._catalog.empty_trash()

    def publish(self, key: str, identity: str, manifest: Manifest, cost_s: float) -> Hold:
        """One rename makes the model visible, whole, and held. The disk has it a little later: see `trusted`.

        `identity`: of the source it came from.
        """
        digest = manifest.digest
        with self._catalog.locked():
            if not self._catalog.present(digest):
                self._catalog.path(digest).parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(self._catalog.path(digest), ignore_errors=True)
                record = ModelRecord(
                    digest=digest,
                    size_bytes=manifest.size_bytes,
                    source=manifest.source,
                    cost_s=cost_s,
                    boot_id=self._boot_id,
                    disk_clock=self._catalog.clocks().disk,
                    last_used_s=time.time(),
                )
                self._catalog.write(record)
                (self._catalog.staging(key) / "files").rename(self._catalog.path(digest))
            self._catalog.remember_source(identity, SourceRecord(manifest.source, key, digest))
            hold = self._catalog.hold(digest)
        self._catalog.discard(key)
        flusher = threading.Thread(target=self._flush, args=(digest,), name="store-flush")
        flusher.start()
        self._flushers = [thread for thread in self._flushers if thread.is_alive()] + [flusher]
        return hold

    def touch(self, digest: str) -> None:
        """The model was asked for: it counts for its frequency and it is as young as the clock."""
        with self._catalog.locked():
            record, clocks = self._catalog.must(digest), self._catalog.clocks()
            self._catalog.write(
                msgspec.structs.replace(
                    record,
                    frequency=record.frequency + 1,
                    last_used_s=time.time(),
                    disk_clock=clocks.disk,
                    ram_clock=clocks.ram,
                )
            )

    def pin(self, digest: str, pinned: bool) -> None:
        with self._catalog.locked():
            self._catalog.write(msgspec.structs.replace(self._catalog.must(digest), pinned=pinned))

    def hold(self, digest: str) -> Hold:
        with self._catalog.locked():
            self._catalog.must(digest)
            return self._catalog.hold(digest)

    def remove(self, digest: str) -> None:
        with self._catalog.locked():
            record = self._catalog.must(digest)
            if record.pinned or self._catalog.holds(digest):
                raise Conflict(f"model {digest} is {'pinned' if record.pinned else 'held'}; it cannot be removed")
            self._catalog.withdraw(digest, "removed")
        self._catalog.empty_trash()

    def verify(
        self, digest: str, threads: int, stop: Callable[[], bool], report: Callable[[int, int], None]
    ) -> tuple[str, ...]:
        """Read everything and compare. A damaged model is withdrawn; what was open of it stays readable."""
        manifest = self._manifest(digest)
        seen = 0
        counting = threading.Lock()

        def count(size: int) -> None:
            nonlocal seen
            with counting:
                seen += size
                report(seen, manifest.size_bytes)

        differences = verify_files(self._catalog.path(digest), manifest, threads, stop, count)
        with self._catalog.locked():
            if differences:
                self._catalog.withdraw(digest, f"damaged: {'; '.join(differences)}")
            else:
                self._catalog.write(msgspec.structs.replace(self._catalog.must(digest), flushed=True))
        return differences

    def warm(self, digest: str, stop: Callable[[], bool], report: Callable[[int, int], None]) -> None:
        """Bring a model into the page cache within the budget. Raises StoreFull with the numbers."""
        model = self.model(digest)
        with self._catalog.locked():
            decision = room_in_ram(self._catalog, digest, model.manifest.size_bytes, self._ram_budget_bytes)
            if isinstance(decision, Refuse):
                raise StoreFull(f"{model.manifest.source or digest} in memory: {decision.reason}")
            for evicted in decision.digests:
                self._cool(evicted)
            clocks = self._catalog.clocks()
            self._catalog.write_clocks(msgspec.structs.replace(clocks, ram=decision.clock))
            record = self._catalog.must(digest)
            self._catalog.write(msgspec.structs.replace(record, in_ram=True, ram_clock=decision.clock))
        started_s, done = time.monotonic(), 0
        for file in model.manifest.files:

            def arrived(size: int) -> None:
                nonlocal done
                done += size
                report(done, model.manifest.size_bytes)

            page_cache.load(model.path / file.name, stop, arrived)
        if model.tier == "disk":
            with self._catalog.locked():
                cost_s = time.monotonic() - started_s
                self._catalog.write(msgspec.structs.replace(self._catalog.must(digest), ram_cost_s=cost_s))

    def close(self) -> None:
        """Wait until the disk has what was published."""
        for thread in self._flushers:
            thread.join()
        self._flushers = []

    def _cool(self, digest: str) -> None:
        record = self._catalog.must(digest)
        for path in self._catalog.path(digest).rglob("*.safetensors"):
            page_cache.drop(path)
        self._catalog.write(msgspec.structs.replace(record, in_ram=False))

    def _flush(self, digest: str) -> None:
        try:
            flush(self._catalog.path(digest))
            with self._catalog.locked():
                if (record := self._catalog.record(digest)) is not None:
                    self._catalog.write(msgspec.structs.replace(record, flushed=True))
        except FileNotFoundError:
            log.info("model %s was evicted before the disk had all of it", digest)
        except OSError as error:
            log.warning("model %s could not be flushed to the disk: %s; it is verified after a reboot", digest, error)
