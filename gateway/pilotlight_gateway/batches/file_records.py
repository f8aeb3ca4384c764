"""What is kept of a file beside its bytes, and how OpenAI shows it. Pure."""

from __future__ import annotations

from typing import Any, Literal

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


def shown_file(file: FileRecord) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_s),
        "expires_at": int(file.expires_s),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }
