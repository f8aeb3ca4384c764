"""What the store remembers beside the models themselves, in small files replaced atomically.

models/<digest>/…                published models, each with its manifest
staging/<key>/…                  downloads under way (files, journal, plan)
staging/<key>.lock               held by the process that downloads
records/<digest>.json            uses, cost, pin
sources/<sha256>.json            which digest a source had last, and which a listing of it became
holds/<digest>/<hold>            one locked file per hold
trash/                           evicted models on their way out
clock.json, store.lock           greedy-dual's clocks; the lock for all of the above
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec

from pilotlight_store.transfer.disk import replace_file


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`cost_s`: seconds the download took. `*_clock`: the tier's clock at the last use. `boot_id`: of the kernel that
    published the model; `flushed`: the disk is known to have it. Times in seconds since 1970."""

    digest: str
    size_bytes: int
    source: str
    cost_s: float
    boot_id: str
    flushed: bool = False
    pinned: bool = False
    in_ram: bool = False
    frequency: int = 0
    last_used_s: float = 0.0
    disk_clock: float = 0.0
    ram_clock: float = 0.0
    ram_cost_s: float = 0.0


class SourceRecord(msgspec.Struct, frozen=True):
    uri: str
    listing_key: str
    digest: str


class Plan(msgspec.Struct, frozen=True):
    """What a download under way is about, for the processes that wait for it and for the disk budget."""

    uri: str
    sizes_bytes: tuple[int, ...]


class Clocks(msgspec.Struct, frozen=True):
    disk: float = 0.0
    ram: float = 0.0


_Record = TypeVar("_Record", bound=msgspec.Struct)


def read(path: Path, kind: type[_Record]) -> _Record | None:
    """None when the file is not there or not readable as what it should be: records can be made anew."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write(path: Path, record: msgspec.Struct) -> None:
    replace_file(path, msgspec.json.encode(record))


def source_file_name(name: str) -> str:
    """For a source's identity or a listing's key."""
    return f"{hashlib.sha256(name.encode()).hexdigest()}.json"
