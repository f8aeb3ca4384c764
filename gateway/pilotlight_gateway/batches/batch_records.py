"""What is kept of a batch, what state it is in, and how OpenAI shows it. Pure.

validating ──▶ in_progress ──▶ finalizing ──▶ completed | expired | cancelled | failed
    │              └─cancel─▶ cancelling ──▶ cancelled
    └──▶ failed: its file is no batch
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from pilotlight_protocol.errors import ModelNotFound

BatchState = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
ENDED: frozenset[BatchState] = frozenset({"failed", "completed", "expired", "cancelled"})
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")


class BatchNotFound(ModelNotFound):
    code = "batch_not_found"


class BatchError(msgspec.Struct, frozen=True):
    """Why a whole batch failed."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """`at_s`: when it came to each of its states. `key_id`: of the key that asked, which must still be good. `outcome`:
    how it ends, from when nothing of it runs any more until its files are published."""

    id: str
    tenant: str
    key_id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_s: float
    expires_s: float
    metadata: dict[str, str] | None = None
    state: BatchState = "validating"
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: tuple[BatchError, ...] = ()
    outcome: BatchState | None = None
    at_s: dict[str, float] = {}

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def came_to(batch: Batch, state: BatchState, now_s: float, **changes: Any) -> Batch:
    return msgspec.structs.replace(batch, state=state, at_s={**batch.at_s, state: now_s}, **changes)


def shown_batch(batch: Batch) -> dict[str, Any]:
    times = {f"{state}_at": _seconds(batch.at_s.get(state)) for state in _TIMED}
    errors = {"object": "list", "data": batch.errors} if batch.errors else None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.state,
        "output_file_id": batch.output_file_id if batch.ended else None,
        "error_file_id": batch.error_file_id if batch.ended else None,
        "created_at": int(batch.created_s),
        "expires_at": int(batch.expires_s),
        **times,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata,
    }


_TIMED: tuple[BatchState, ...] = (
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
)


def _seconds(time_s: float | None) -> int | None:
    return None if time_s is None else int(time_s)
