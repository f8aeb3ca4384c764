"""Whether a model fits, and who makes room for it: the budgets of disk and memory over what the catalog has."""

from __future__ import annotations

import shutil

from pilotlight_warmup.store.catalog import Catalog
from pilotlight_warmup.store.eviction import Candidate, Evict, Refuse, make_room
from pilotlight_warmup.store.records import ModelRecord

DISK_RESERVE = 0.05


def room_on_disk(catalog: Catalog, key: str, needed_bytes: int, budget_bytes: int | None) -> Evict | Refuse:
    """For the download `key`. `budget_bytes` None: what the disk has, less a reserve."""
    published = catalog.published()
    used_bytes = sum(record.size_bytes for record in published) + catalog.reserved_bytes(key)
    candidates = [_candidate(catalog, record, record.cost_s, record.disk_clock) for record in published]
    budget_bytes = _disk_budget(catalog, key, used_bytes, budget_bytes)
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
    leased = catalog.leases(record.digest) > 0
    return Candidate(record.digest, record.size_bytes, record.frequency, cost_s, clock, record.pinned, leased)


def _disk_budget(catalog: Catalog, key: str, used_bytes: int, budget_bytes: int | None) -> int:
    """The setting, and never more than the disk has for the store: its own, what is free, and what this download
    has pre-allocated already."""
    disk = shutil.disk_usage(catalog.folder)
    own = sum(path.stat().st_blocks * 512 for path in catalog.staging(key).rglob("*") if path.is_file())
    possible = used_bytes + own + disk.free
    if budget_bytes is None:
        return possible - int(disk.total * DISK_RESERVE)
    return min(budget_bytes, possible)
