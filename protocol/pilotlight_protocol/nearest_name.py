"""The name that somebody meant who wrote another one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` with the nearest of `known`, nothing when none is near. Case, `-` and `_` do not count."""
    by_plain = {_plain(candidate): candidate for candidate in known}
    near = get_close_matches(_plain(name), by_plain, n=1, cutoff=0.7)
    return f"; did you mean {by_plain[near[0]]}?" if near else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
