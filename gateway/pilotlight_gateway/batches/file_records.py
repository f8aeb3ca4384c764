"""What is kept of a file beside its bytes, and how OpenAI shows it. Pure."""

from __future__ import annotations

from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from pilotlight_protocol.errors import ModelNotFound

Purpose = Literal["batch", "batch_output"]
_LONGEST_NAME_CHARS = 200


class FileNotKept(ModelNotFound):
    code = "file_not_found"


class FileRecord(msgspec.Struct, frozen=True):
    """`name`: as its client calls it, for nobody but its client."""

    id: str
    tenant: str
    name: str
    purpose: Purpose
    size_bytes: int
    created_s: float
    expires_s: float


def fit_name(name: str) -> str:
    """What is shown of a client's name for a file: its last part, printable."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(each for each in last if each.isprintable())[:_LONGEST_NAME_CHARS] or "file.jsonl"


class ShownFile(msgspec.Struct, frozen=True):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"]


class DeletedFile(msgspec.Struct, frozen=True):
    id: str
    object: Literal["file"]
    deleted: bool


class _WithId(Protocol):
    @property
    def id(self) -> str: ...


_Listed = TypeVar("_Listed", bound=_WithId)


class Page(msgspec.Struct, Generic[_Listed], frozen=True):
    """OpenAI's page of a list."""

    object: Literal["list"]
    data: list[_Listed]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page(found: list[_Listed], limit: int) -> Page[_Listed]:
    """Of a list of which one more than `limit` was asked for."""
    shown = found[:limit]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return Page("list", shown, first, last, len(found) > limit)


def shown_file(file: FileRecord) -> ShownFile:
    return ShownFile(
        id=file.id,
        object="file",
        bytes=file.size_bytes,
        created_at=int(file.created_s),
        expires_at=int(file.expires_s),
        filename=file.name,
        purpose=file.purpose,
        status="processed",
    )
