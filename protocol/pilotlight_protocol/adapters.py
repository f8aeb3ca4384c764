"""How many LoRA adapters one engine serves at once, and how large they may be. Pure.

An engine reserves room for its adapters when it boots, for each as much as its largest rank takes. So ranks come in
classes, and engines of one class serve every adapter of theirs: the larger the class, the fewer at once, which keeps
the room within twice that of eight small ones.
"""

from __future__ import annotations

from collections.abc import Mapping

ADAPTER_ANNOTATION, ADAPTER_VARIABLE = "pilotlight.dev/adapter", "PILOTLIGHT_ADAPTER"
"""An endpoint's adapter: in a spec it is an annotation, for predictor and transformer a variable."""

AT_ONCE: Mapping[int, int] = {16: 8, 64: 4, 256: 1}
"""Adapters that may be leased of one engine at the same time, by rank class (all of them are ranks vLLM offers)."""

LARGEST_RANK = max(AT_ONCE)


def rank_class(rank: int) -> int:
    """The least class that holds the rank, which is at most `LARGEST_RANK`."""
    return next(largest for largest in AT_ONCE if rank <= largest)


def kept(adapter_rank: int) -> int:
    """Adapters that an engine of this class holds in memory: as many again as are leased stay for who comes back."""
    return 2 * AT_ONCE[adapter_rank]
