"""What a pooling model's files say of how texts are given to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilotlight_models.pooling_files import PoolingFiles
from pilotlight_protocol.pooling import PoolingTask
from pilotlight_protocol.pooling_config import is_encoder, pooling_task, tells_pairs_apart


@dataclass(frozen=True, slots=True)
class PoolingTraits:
    """`reads_pairs`: two texts in one row. `tells_pairs_apart`: the second one's tokens are of a type of their own.
    `max_tokens`: the longest text that it was trained for, None where only config.json says."""

    task: PoolingTask
    reads_pairs: bool
    tells_pairs_apart: bool
    lower_case: bool = False
    max_tokens: int | None = None


def pooling_traits(config: Mapping[str, Any], files: PoolingFiles | None) -> PoolingTraits | None:
    """None for a model that generates."""
    task = pooling_task(config, has_modules=files is not None and files.has_modules)
    if task is None:
        return None
    return PoolingTraits(
        task,
        task == "classify" and is_encoder(config),
        tells_pairs_apart(config),
        files is not None and files.lower_case,
        None if files is None else files.max_seq_length,
    )
