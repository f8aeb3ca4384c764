"""The seam below a pooling model's text: rows of tokens in, a vector for each out, whoever makes them.

A source of tokens (`token_source`) is one of vectors, too. No I/O is done here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pilotlight_protocol.pooling import PoolingParameters
from pilotlight_text.token_source import AnswerFacts


@dataclass(frozen=True, slots=True)
class PoolingRow:
    """`input_ids`: int[seq]. `pair_start`: where the second of two texts begins, None for one text."""

    input_ids: list[int]
    pair_start: int | None = None


@dataclass(frozen=True, slots=True)
class PoolingCall:
    """Rows that are read together; `metadata` as of a TokenRequest."""

    model_name: str
    request_id: str
    rows: Sequence[PoolingRow]
    parameters: PoolingParameters
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PooledAnswer:
    """`vectors`: one per row in their order, FP32 little-endian, all of one length."""

    vectors: list[bytes]
    facts: AnswerFacts
