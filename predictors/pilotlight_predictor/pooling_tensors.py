"""V2's tensors of a pooling model: prompts of token ids in, one vector per row out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_predictor.token_tensors import INPUT_IDS, INPUT_LENGTHS, prompts_from
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.pooling import EMBEDDING, PAIR_STARTS, SCORE, PooledVector, PoolingInfo
from pilotlight_protocol.v2 import InferRequest, Tensor
from pilotlight_wire.handlers import TensorMetadata

INPUTS = (
    TensorMetadata(INPUT_IDS, "INT32", (-1, -1)),
    TensorMetadata(INPUT_LENGTHS, "INT32", (-1,)),
    TensorMetadata(PAIR_STARTS, "INT32", (-1,)),
)


def outputs(info: PoolingInfo) -> tuple[TensorMetadata, ...]:
    return (TensorMetadata(output_name(info), "FP32", (-1, info.size)),)


def output_name(info: PoolingInfo) -> str:
    return EMBEDDING if info.task == "embed" else SCORE


def pool_prompts(request: InferRequest, max_batch: int) -> list[tuple[list[int], int | None]]:
    """The rows as `prompts_from` reads them, each with its `pair_starts` INT32|INT64 [batch]: where the second of two
    texts begins, -1 for a row of one text. Raises InvalidInput, PayloadTooLarge."""
    starts = request.tensor(PAIR_STARTS)
    others = [tensor for tensor in request.inputs if tensor.name != PAIR_STARTS]
    prompts = prompts_from(InferRequest(others, request.id, request.parameters, request.outputs), max_batch)
    if starts is None:
        return [(prompt, None) for prompt in prompts]
    if starts.datatype not in ("INT32", "INT64") or len(starts.data) != len(prompts):
        raise InvalidInput(f"input '{PAIR_STARTS}' must be INT32 [{len(prompts)}], one per row", param=PAIR_STARTS)
    for row, (prompt, start) in enumerate(zip(prompts, starts.data, strict=True)):
        if not -1 <= start <= len(prompt):
            raise InvalidInput(f"{PAIR_STARTS}[{row}] is {start}; the row has {len(prompt)} tokens", param=PAIR_STARTS)
    return [(prompt, None if start < 0 else start) for prompt, start in zip(prompts, starts.data, strict=True)]


def vector_tensors(vectors: Sequence[PooledVector], info: PoolingInfo) -> list[Tensor]:
    """`embedding` or `score`, FP32 [batch, size]."""
    rows = [vector.floats() for vector in vectors]
    return [Tensor(output_name(info), "FP32", [len(rows), len(rows[0])], [value for row in rows for value in row])]
