"""What a store's folder says: where things lie, records, holds, and the one lock around them. See `records`."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from pilotlight_protocol.errors import ModelNotFound
from pilotlight_protocol.manifest import MANIFEST_NAME
from pilotlight_store.published import records
from pilotlight_store.published.locks import FileLock, held, locked
from pilotlight_store.published.records import Clocks, ModelRecord, Plan, SourceRecord

_DIGEST = re.compile(r"[0-9a-f]{64}")
STALE_S = 86_400.0
log = logging.getLogger(__name__)


class Hold:
    """Keeps one model from eviction. The kernel ends it with the process."""

    def __init__(self, digest: str, path: Path, lock: FileLock) -> None:
        self.digest = digest
        self.path = path
        self._lock: FileLock | None = lock

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release(remove=True)
            self._lock = None

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Catalog:
    """Raises ModelNotFound for a digest that is not published. What changes anything is called under `locked`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def staging(self, key: str) -> Path:
        return self.folder / "staging" / key

    def staging_lock(self, key: str) -> Path:
        return self.folder / "staging" / f"{key}.lock"

    def path(self, digest: str) -> Path:
        return self.folder / "models" / digest

    def present(self, digest: str) -> bool:
        return (self.path(digest) / MANIFEST_NAME).is_file() and self.record(digest) is not None

    def known(self, listing_key: str) -> str | None:
        """The digest this state of the source had, if it is still here."""
        return self._remembered(listing_key)

    def last_known(self, identity: str) -> str | None:
        """The digest the source had when it was last fetched, if it is still here."""
        return self._remembered(identity)

    def _remembered(self, name: str) -> str | None:
        record = records.read(self._source_path(name), SourceRecord)
        return record.digest if record is not None and self.present(record.digest) else None

    def discard(self, key: str) -> None:
        """Throw a download away."""
        shutil.rmtree(self.staging(key), ignore_errors=True)

    def withdraw(self, digest: str, why: str) -> None:
        """Nobody finds the model any more; `empty_trash` deletes it, outside the lock."""
        log.info("model %s: %s", digest, why)
        trash = self.folder / "trash" / f"{digest}-{secrets.token_hex(4)}"
        trash.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.path(digest).rename(trash)
        self._record_path(digest).unlink(missing_ok=True)

    def empty_trash(self) -> None:
        for path in (self.folder / "trash").glob("*"):
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self, key: str) -> None:
        """Throw away downloads that nobody works on and that are older than a day."""
        for other in self.abandoned(key):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - (self.staging(other) / "plan.json").stat().st_mtime > STALE_S:
                    self.discard(other)

    def abandoned(self, key: str) -> list[str]:
        """Downloads but `key` that nobody works on, the oldest first."""
        found = []
        for plan in (self.folder / "staging").glob("*/plan.json"):
            other = plan.parent.name
            with contextlib.suppress(FileNotFoundError):
                if other != key and not held(self.staging_lock(other)):
                    found.append((plan.stat().st_mtime, other))
        return [other for _, other in sorted(found)]

    def hold(self, digest: str) -> Hold:
        """Taken whether the model is there or not: look first, under the same lock."""
        lock = None
        while lock is None:  # a lister that looks whether a new hold is held can be in the way for a moment
            lock = FileLock.try_acquire(self.folder / "holds" / digest / secrets.token_hex(8))
        return Hold(digest, self.path(digest), lock)

    def holds(self, digest: str) -> int:
        """How many hold the model now, in whatever process."""
        return sum(held(path) for path in (self.folder / "holds" / digest).glob("*"))

    def locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(self.folder / "store.lock")

    def record(self, digest: str) -> ModelRecord | None:
        return records.read(self._record_path(digest), ModelRecord)

    def must(self, digest: str) -> ModelRecord:
        """The record of a published model. Raises ModelNotFound."""
        record = self.record(digest) if _DIGEST.fullmatch(digest) else None
        if record is None:
            raise ModelNotFound(f"model {digest} is not in the store; fetch it with `pilotlight prefetch`")
        return record

    def write(self, record: ModelRecord) -> None:
        records.write(self._record_path(record.digest), record)

    def _record_path(self, digest: str) -> Path:
        return self.folder / "records" / f"{digest}.json"

    def published(self) -> list[ModelRecord]:
        found = (records.read(path, ModelRecord) for path in sorted((self.folder / "records").glob("[0-9a-f]*.json")))
        return [record for record in found if record is not None]

    def reserved_bytes(self, but: Collection[str]) -> int:
        """What downloads have been promised, those `but` left out."""
        plans = (
            records.read(path, Plan)
            for path in (self.folder / "staging").glob("*/plan.json")
            if path.parent.name not in but
        )
        return sum(sum(plan.sizes_bytes) for plan in plans if plan is not None)

    def remember_source(self, identity: str, source: SourceRecord) -> None:
        for name in (identity, source.listing_key):
            records.write(self._source_path(name), source)

    def _source_path(self, name: str) -> Path:
        return self.folder / "sources" / records.source_file_name(name)

    def clocks(self) -> Clocks:
        return records.read(self.folder / "clock.json", Clocks) or Clocks()

    def write_clocks(self, clocks: Clocks) -> None:
        records.write(self.folder / "clock.json", clocks)
