"""A pooling call over REST: V2's infer, whose vectors come as binary tensors. Pure: bodies in, bodies out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.pooling import PAIR_STARTS
from pilotlight_text.pooling_source import PooledAnswer, PoolingCall
from pilotlight_text.token_source import AnswerFacts

JSON_LENGTH = "inference-header-content-length"


class _Output(msgspec.Struct):
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}


class _Answer(msgspec.Struct):
    outputs: list[_Output]


_encode = msgspec.json.Encoder().encode
_answers = msgspec.json.Decoder(_Answer)


def request_body(call: PoolingCall) -> bytes:
    rows, width = call.rows, max(len(row.input_ids) for row in call.rows)
    padded = [token for row in rows for token in (*row.input_ids, *(0,) * (width - len(row.input_ids)))]
    inputs = [
        _tensor("input_ids", [len(rows), width], padded),
        _tensor("input_lengths", [len(rows)], [len(row.input_ids) for row in rows]),
    ]
    starts = pair_starts(call)
    if starts is not None:
        inputs.append(_tensor(PAIR_STARTS, [len(rows)], starts))
    parameters = msgspec.to_builtins(call.parameters) | {"binary_data_output": True}
    return _encode({"id": call.request_id, "inputs": inputs, "parameters": parameters})


def pair_starts(call: PoolingCall) -> list[int] | None:
    if all(row.pair_start is None for row in call.rows):
        return None
    return [-1 if row.pair_start is None else row.pair_start for row in call.rows]


def read_answer(body: bytes, headers: Mapping[str, str], call: PoolingCall, facts: AnswerFacts) -> PooledAnswer:
    """Raises Unavailable for what the contract does not say."""
    given = headers.get(JSON_LENGTH, "")
    length = int(given) if given.isdigit() and len(given) < 10 else 0
    try:
        (output,) = _answers.decode(memoryview(body)[:length]).outputs
    except (msgspec.MsgspecError, ValueError) as error:
        raise Unavailable(f"the predictor's answer is not what the contract says: {error}") from error
    return PooledAnswer(split(output.datatype, output.shape, body[length:], call), facts)


def split(datatype: str, shape: list[int], raw: bytes, call: PoolingCall) -> list[bytes]:
    """A vector per row. Raises Unavailable."""
    rows = len(call.rows)
    if datatype != "FP32" or len(shape) != 2 or shape[0] != rows or shape[1] < 1 or len(raw) != 4 * rows * shape[1]:
        raise Unavailable(
            f"the predictor's answer is not what the contract says: {datatype} {shape[:4]} in {len(raw)} bytes "
            f"for {rows} rows"
        )
    size = 4 * shape[1]
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def _tensor(name: str, shape: list[int], data: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": "INT32", "shape": shape, "data": data}
