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


class BatchErrors(msgspec.Struct, frozen=True):
    object: Literal["list"]
    data: tuple[BatchError, ...]


class RequestCounts(msgspec.Struct, frozen=True):
    total: int
    completed: int
    failed: int


class ShownBatch(msgspec.Struct, frozen=True):
    """`in_progress_at` and its like: when it came to that state."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchState
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


def shown_batch(batch: Batch) -> ShownBatch:
    def came(state: BatchState) -> int | None:
        time_s = batch.at_s.get(state)
        return None if time_s is None else int(time_s)

    return ShownBatch(
        id=batch.id,
        object="batch",
        endpoint=batch.endpoint,
        errors=BatchErrors("list", batch.errors) if batch.errors else None,
        input_file_id=batch.input_file_id,
        completion_window=batch.completion_window,
        status=batch.state,
        output_file_id=batch.output_file_id if batch.ended else None,
        error_file_id=batch.error_file_id if batch.ended else None,
        created_at=int(batch.created_s),
        expires_at=int(batch.expires_s),
        in_progress_at=came("in_progress"),
        finalizing_at=came("finalizing"),
        completed_at=came("completed"),
        failed_at=came("failed"),
        expired_at=came("expired"),
        cancelling_at=came("cancelling"),
        cancelled_at=came("cancelled"),
        request_counts=RequestCounts(batch.total, batch.completed, batch.failed),
        metadata=batch.metadata,
    )
