"""Go's duration strings, as every Knative key is written ("90s", "1m30s", "1h"). Parsing only."""

from __future__ import annotations

import re
from fractions import Fraction

_UNIT_S = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "μs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


def parse_duration_s(text: str) -> float:
    """Seconds in a Go duration string; ValueError when it is not one (a bare number but 0 has no unit, so is not)."""
    body = text[1:] if text[:1] in {"+", "-"} else text
    if body == "0":
        return 0.0
    terms = list(_TERM.finditer(body))
    if not terms or "".join(term.group() for term in terms) != body:
        raise ValueError(f"{text!r} is not a duration; write it like 90s, 1m30s or 1h")
    total = sum((Fraction(term.group(1)) * _UNIT_S[term.group(2)] for term in terms), Fraction(0))
    return float(-total if text.startswith("-") else total)


def format_duration(seconds: float) -> str:
    """Seconds as people write them in these files: `90s`, `0.5s`."""
    return f"{seconds:g}s"
