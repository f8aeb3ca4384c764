"""Sizes in bytes as people write them and read them. Pure."""

from __future__ import annotations

import re

_FORM = re.compile(r"(?P<amount>\d+(?:\.\d+)?)(?P<unit>k|[KMGT]i|[MGT]|)B?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def parse_size(text: str) -> int:
    """`500M`, `70Gi`, `1.5GB`: bytes, with Kubernetes' suffixes. Raises ValueError, also for nothing."""
    form = _FORM.fullmatch(text.strip())
    size_bytes = int(float(form["amount"]) * _UNITS[form["unit"]]) if form is not None else 0
    if size_bytes <= 0:
        raise ValueError(f"{text!r} is no size; write for example 500M or 70Gi")
    return size_bytes


def shown_size(size_bytes: float) -> str:
    """Decimal units, one digit: `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.2f} TB"
