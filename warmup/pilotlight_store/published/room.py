"""Whether a model fits, and who makes room for it: the budgets of disk and memory over what the catalog has."""

from __future__ import annotations

import shutil
from collections.abc import Collection

from pilotlight_store.published.catalog import Catalog
from pilotlight_store.published.eviction import Candidate, Evict, Refuse, make_room
from pilotlight_store.published.records import ModelRecord

DISK_RESERVE = 0.05


def room_on_disk(catalog: Catalog, own: Collection[str], needed_bytes: int, budget_bytes: int | None) -> Evict | Refuse:
    """For a download whose are the staging areas `own`: its own, and those that are discarded for it.

    `budget_bytes` None: what the disk has, less a reserve.
    """
    published = catalog.published()
    used_bytes = sum(record.size_bytes for record in published) + catalog.reserved_bytes(own)
    candidates = [_candidate(catalog, record, record.cost_s, record.disk_clock) for record in published]
    budget_bytes = _disk_budget(catalog, own, used_bytes, budget_bytes)
    return make_room(needed_bytes, used_bytes, budget_bytes, candidates, catalog.clocks().disk)


def room_in_ram(catalog: Catalog, digest: str, needed_bytes: int, budget_bytes: int) -> Evict | Refuse:
    """For the published model `digest`."""
    others = [record for record in catalog.published() if record.in_ram and record.digest != digest]
    used_bytes = sum(record.size_bytes for record in others)
    candidates = [
        _candidate(catalog, record, record.ram_cost_s or record.cost_s, record.ram_clock) for record in others
    ]
    return make_room(needed_bytes, used_bytes, budget_bytes, candidates, catalog.clocks().ram)


def _candidate(catalog: Catalog, record: ModelRecord, cost_s: float, clock: float) -> Candidate:
    kept = record.pinned or catalog.holds(record.digest) > 0
    return Candidate(record.digest, record.size_bytes, record.frequency, cost_s, clock, kept)


def _disk_budget(catalog: Catalog, own: Collection[str], used_bytes: int, budget_bytes: int | None) -> int:
    """The setting, and never more than the disk has for the store: what is there, what is free, and what the staging
    areas `own` have pre-allocated."""
    disk = shutil.disk_usage(catalog.folder)
    files = (path for key in own for path in catalog.staging(key).rglob("*") if path.is_file())
    possible = used_bytes + sum(path.stat().st_blocks * 512 for path in files) + disk.free
    if budget_bytes is None:
        return possible - int(disk.total * DISK_RESERVE)
    return min(budget_bytes, possible)
