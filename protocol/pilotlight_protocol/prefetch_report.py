"""What `pilotlight prefetch --report FILE` says of itself to the program that started it. Pure."""

from __future__ import annotations

import msgspec


class PrefetchReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The newest state replaces the one before. `state`: what the download does (`store.Progress`), at the end `ready`
    with the model's `folder`, or `failed` with the reason in `error`."""

    state: str
    done_bytes: int = 0
    total_bytes: int = 0
    folder: str = ""
    error: str = ""


def encode_report(report: PrefetchReport) -> bytes:
    return msgspec.json.encode(report)


def decode_report(content: bytes) -> PrefetchReport:
    """Raises msgspec.DecodeError for what is none."""
    return msgspec.json.decode(content, type=PrefetchReport)
