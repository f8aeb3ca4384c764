"""What is in a store: published models, their records, leases and budgets. Knows nothing of sources or networks."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
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

from pilotlight_warmup.store import page_cache, records
from pilotlight_warmup.store.disk import flush
from pilotlight_warmup.store.errors import StoreFull
from pilotlight_warmup.store.eviction import Candidate, Evict, Refuse, make_room
from pilotlight_warmup.store.locks import FileLock, held, locked
from pilotlight_warmup.store.records import Clocks, ModelRecord, Plan, SourceRecord
from pilotlight_warmup.store.verification import verify_files

Tier = Literal["disk", "ram"]
DISK_RESERVE = 0.05
RESIDENT_SHARE = 0.99  # of a model's bytes; the kernel always takes a few pages back first
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A published model as it is now. `last_used_s` in seconds since 1970; `leases` of all processes."""

    digest: str
    path: Path
    manifest: Manifest
    tier: Tier
    resident_bytes: int
    pinned: bool
    leases: int
    frequency: int
    last_used_s: float


class Lease:
    """Keeps one model from eviction. The kernel ends it with the process."""

    def __init__(self, digest: str, path: Path, lock: FileLock) -> None:
        self.digest = digest
        self.path = path
        self._lock: FileLock | None = lock

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release(remove=True)
            self._lock = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Shelf:
    """One store folder; see `records` for its layout. Raises ModelNotFound for a digest that is not published."""

    def __init__(self, folder: Path, disk_budget_bytes: int | None, ram_budget_bytes: int | None) -> None:
        self._folder = folder
        self._disk_budget_bytes = disk_budget_bytes
        self._ram_budget_bytes = ram_budget_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        self._boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"
        self._flushers: list[threading.Thread] = []
        folder.mkdir(parents=True, exist_ok=True)

    def staging(self, key: str) -> Path:
        return self._folder / "staging" / key

    def staging_lock(self, key: str) -> Path:
        return self._folder / "staging" / f"{key}.lock"

    def path(self, digest: str) -> Path:
        return self._folder / "models" / digest

    def present(self, digest: str) -> bool:
        return (self.path(digest) / MANIFEST_NAME).is_file() and self._record(digest) is not None

    def trusted(self, digest: str) -> bool:
        """Whether no crash of the machine can have taken bytes since the model was published."""
        record = self._record(digest)
        return record is None or record.flushed or record.boot_id == self._boot_id

    def known(self, uri: str, listing_key: str) -> str | None:
        """The digest this state of the source had, if it is still here."""
        record = records.read(self._source_path(uri), SourceRecord)
        if record is None or record.listing_key != listing_key or not self.present(record.digest):
            return None
        return record.digest

    def last_known(self, uri: str) -> str | None:
        """The digest the source had when it was last fetched, if it is still here."""
        record = records.read(self._source_path(uri), SourceRecord)
        return record.digest if record is not None and self.present(record.digest) else None

    def models(self) -> tuple[Model, ...]:
        found = []
        for path in (self._folder / "models").glob("*"):
            with contextlib.suppress(ModelNotFound):
                found.append(self.model(path.name))
        return tuple(sorted(found, key=lambda model: -model.last_used_s))

    def model(self, digest: str) -> Model:
        path, record = self.path(digest), self._must(digest)
        try:
            manifest = decode_manifest((path / MANIFEST_NAME).read_bytes())
            resident = sum(page_cache.resident_bytes(path / file.name) for file in manifest.files)
        except (OSError, ManifestInvalid) as error:
            raise ModelNotFound(f"model {digest} is not in the store; fetch it with `pilotlight prefetch`") from error
        tier: Tier = "ram" if resident >= RESIDENT_SHARE * manifest.size_bytes else "disk"
        return Model(
            digest, path, manifest, tier, resident, record.pinned, self._leases(digest), record.frequency,
            record.last_used_s,
        )  # fmt: skip

    def reserve(self, key: str, uri: str, sizes_bytes: tuple[int, ...]) -> None:
        """Make room for a download and keep it; other downloads count it. Raises StoreFull with the numbers."""
        with self._locked():
            self._sweep(key)
            decision = self._room_on_disk(sum(sizes_bytes), key)
            if isinstance(decision, Refuse):
                raise StoreFull(f"{uri}: {decision.reason}")
            for digest in decision.digests:
                self._withdraw(digest, "evicted to make room")
            records.write(self.staging(key) / "plan.json", Plan(uri, sizes_bytes))
            clocks = self._clocks()
            self._write_clocks(msgspec.structs.replace(clocks, disk=decision.clock))
        self._empty_trash()

    def discard(self, key: str) -> None:
        """Throw a download away."""
        shutil.rmtree(self.staging(key), ignore_errors=True)

    def publish(self, key: str, manifest: Manifest, cost_s: float) -> Lease:
        """One rename makes the model visible, whole, and leased. The disk has it a little later: see `trusted`."""
        digest = manifest.digest
        with self._locked():
            if not self.present(digest):
                self.path(digest).parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(self.path(digest), ignore_errors=True)
                record = ModelRecord(
                    digest=digest,
                    size_bytes=manifest.size_bytes,
                    source=manifest.source,
                    cost_s=cost_s,
                    boot_id=self._boot_id,
                    disk_clock=self._clocks().disk,
                    last_used_s=time.time(),
                )
                records.write(self._record_path(digest), record)
                (self.staging(key) / "files").rename(self.path(digest))
            source = SourceRecord(manifest.source, key, digest)
            records.write(self._source_path(manifest.source), source)
            lease = self._lease(digest)
        self.discard(key)
        flusher = threading.Thread(target=self._flush, args=(digest,), name="store-flush")
        flusher.start()
        self._flushers = [thread for thread in self._flushers if thread.is_alive()] + [flusher]
        return lease

    def touch(self, digest: str) -> None:
        """The model was asked for: it counts for its frequency and it is as young as the clock."""
        with self._locked():
            record, clocks = self._must(digest), self._clocks()
            self._write(
                msgspec.structs.replace(
                    record,
                    frequency=record.frequency + 1,
                    last_used_s=time.time(),
                    disk_clock=clocks.disk,
                    ram_clock=clocks.ram,
                )
            )

    def pin(self, digest: str, pinned: bool) -> None:
        with self._locked():
            self._write(msgspec.structs.replace(self._must(digest), pinned=pinned))

    def lease(self, digest: str) -> Lease:
        with self._locked():
            self._must(digest)
            return self._lease(digest)

    def remove(self, digest: str) -> None:
        with self._locked():
            record = self._must(digest)
            if record.pinned or self._leases(digest):
                raise Conflict(f"model {digest} is {'pinned' if record.pinned else 'leased'}; it cannot be removed")
            self._withdraw(digest, "removed")
        self._empty_trash()

    def verify(
        self, digest: str, threads: int, stop: Callable[[], bool], report: Callable[[int, int], None]
    ) -> tuple[str, ...]:
        """Read everything and compare. A damaged model is withdrawn; what was open of it stays readable."""
        manifest = self.model(digest).manifest
        seen = 0
        counting = threading.Lock()

        def count(size: int) -> None:
            nonlocal seen
            with counting:
                seen += size
                report(seen, manifest.size_bytes)

        differences = verify_files(self.path(digest), manifest, threads, stop, count)
        with self._locked():
            if differences:
                self._withdraw(digest, f"damaged: {'; '.join(differences)}")
            else:
                self._write(msgspec.structs.replace(self._must(digest), flushed=True))
        return differences

    def warm(self, digest: str, stop: Callable[[], bool], report: Callable[[int, int], None]) -> None:
        """Bring a model into the page cache within the budget. Raises StoreFull with the numbers."""
        model = self.model(digest)
        with self._locked():
            decision = self._room_in_ram(model)
            if isinstance(decision, Refuse):
                raise StoreFull(f"{model.manifest.source or digest} in memory: {decision.reason}")
            for evicted in decision.digests:
                self._cool(evicted)
            clocks = self._clocks()
            self._write_clocks(msgspec.structs.replace(clocks, ram=decision.clock))
            record = self._must(digest)
            self._write(msgspec.structs.replace(record, in_ram=True, ram_clock=decision.clock))
        started_s, done = time.monotonic(), 0
        for file in model.manifest.files:

            def arrived(size: int) -> None:
                nonlocal done
                done += size
                report(done, model.manifest.size_bytes)

            page_cache.load(model.path / file.name, stop, arrived)
        if model.tier == "disk":
            with self._locked():
                cost_s = time.monotonic() - started_s
                self._write(msgspec.structs.replace(self._must(digest), ram_cost_s=cost_s))

    def close(self) -> None:
        """Wait until the disk has what was published."""
        for thread in self._flushers:
            thread.join()
        self._flushers = []

    def _room_on_disk(self, needed_bytes: int, key: str) -> Evict | Refuse:
        published = [record for path in self._record_paths() if (record := records.read(path, ModelRecord))]
        reserved = [
            sum(plan.sizes_bytes)
            for path in (self._folder / "staging").glob("*/plan.json")
            if path.parent.name != key and (plan := records.read(path, Plan)) is not None
        ]
        used_bytes = sum(record.size_bytes for record in published) + sum(reserved)
        return make_room(
            needed_bytes,
            used_bytes,
            self._disk_budget(used_bytes, key),
            [
                Candidate(
                    record.digest,
                    record.size_bytes,
                    record.frequency,
                    record.cost_s,
                    record.disk_clock,
                    record.pinned,
                    self._leases(record.digest) > 0,
                )
                for record in published
            ],
            self._clocks().disk,
        )

    def _disk_budget(self, used_bytes: int, key: str) -> int:
        """The setting, and never more than the disk has for the store: its own, what is free, and what this download
        has pre-allocated already."""
        disk = shutil.disk_usage(self._folder)
        own = sum(path.stat().st_blocks * 512 for path in self.staging(key).rglob("*") if path.is_file())
        possible = used_bytes + own + disk.free
        if self._disk_budget_bytes is None:
            return possible - int(disk.total * DISK_RESERVE)
        return min(self._disk_budget_bytes, possible)

    def _room_in_ram(self, model: Model) -> Evict | Refuse:
        others = [record for path in self._record_paths() if (record := records.read(path, ModelRecord))]
        others = [record for record in others if record.in_ram and record.digest != model.digest]
        return make_room(
            model.manifest.size_bytes,
            sum(record.size_bytes for record in others),
            self._ram_budget_bytes,
            [
                Candidate(
                    record.digest,
                    record.size_bytes,
                    record.frequency,
                    record.ram_cost_s or record.cost_s,
                    record.ram_clock,
                    record.pinned,
                    self._leases(record.digest) > 0,
                )
                for record in others
            ],
            self._clocks().ram,
        )

    def _cool(self, digest: str) -> None:
        record = self._must(digest)
        for path in self.path(digest).rglob("*.safetensors"):
            page_cache.drop(path)
        self._write(msgspec.structs.replace(record, in_ram=False))

    def _withdraw(self, digest: str, why: str) -> None:
        log.info("model %s: %s", digest, why)
        trash = self._folder / "trash" / f"{digest}-{secrets.token_hex(4)}"
        trash.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.path(digest).rename(trash)
        self._record_path(digest).unlink(missing_ok=True)

    def _empty_trash(self) -> None:
        for path in (self._folder / "trash").glob("*"):
            shutil.rmtree(path, ignore_errors=True)

    def _sweep(self, key: str) -> None:
        """Throw away downloads that nobody works on and that are older than a day."""
        for plan in (self._folder / "staging").glob("*/plan.json"):
            other = plan.parent.name
            with contextlib.suppress(FileNotFoundError):
                old = time.time() - plan.stat().st_mtime > 86_400
                if other != key and old and not held(self.staging_lock(other)):
                    self.discard(other)

    def _flush(self, digest: str) -> None:
        try:
            flush(self.path(digest))
            with self._locked():
                if (record := self._record(digest)) is not None:
                    self._write(msgspec.structs.replace(record, flushed=True))
        except FileNotFoundError:
            log.info("model %s was evicted before the disk had all of it", digest)
        except OSError as error:
            log.warning("model %s could not be flushed to the disk: %s; it is verified after a reboot", digest, error)

    def _lease(self, digest: str) -> Lease:
        lock = None
        while lock is None:  # a lister that looks whether a new lease is held can be in the way for a moment
            lock = FileLock.try_acquire(self._folder / "leases" / digest / secrets.token_hex(8))
        return Lease(digest, self.path(digest), lock)

    def _leases(self, digest: str) -> int:
        return sum(held(path) for path in (self._folder / "leases" / digest).glob("*"))

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(self._folder / "store.lock")

    def _record(self, digest: str) -> ModelRecord | None:
        return records.read(self._record_path(digest), ModelRecord)

    def _must(self, digest: str) -> ModelRecord:
        record = self._record(digest) if _DIGEST.fullmatch(digest) else None
        if record is None:
            raise ModelNotFound(f"model {digest} is not in the store; fetch it with `pilotlight prefetch`")
        return record

    def _write(self, record: ModelRecord) -> None:
        records.write(self._record_path(record.digest), record)

    def _record_path(self, digest: str) -> Path:
        return self._folder / "records" / f"{digest}.json"

    def _record_paths(self) -> list[Path]:
        return sorted((self._folder / "records").glob("[0-9a-f]*.json"))

    def _source_path(self, uri: str) -> Path:
        return self._folder / "sources" / records.source_file_name(uri)

    def _clocks(self) -> Clocks:
        return records.read(self._folder / "clock.json", Clocks) or Clocks()

    def _write_clocks(self, clocks: Clocks) -> None:
        records.write(self._folder / "clock.json", clocks)
