"""A pooling call over gRPC: ModelInfer's messages. Pure."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.pooling import PAIR_STARTS
from pilotlight_serving.kserve_messages import predict_v2
from pilotlight_text.pooling_source import PoolingCall
from pilotlight_transformer.rest_pooling import pair_starts, split


def request_message(call: PoolingCall) -> Any:
    rows, width = call.rows, max(len(row.input_ids) for row in call.rows)
    message = predict_v2.ModelInferRequest(model_name=call.model_name, id=call.request_id)
    padded = [token for row in rows for token in (*row.input_ids, *(0,) * (width - len(row.input_ids)))]
    _add(message, "input_ids", [len(rows), width], padded)
    _add(message, "input_lengths", [len(rows)], [len(row.input_ids) for row in rows])
    starts = pair_starts(call)
    if starts is not None:
        _add(message, PAIR_STARTS, [len(rows)], starts)
    for name, value in msgspec.to_builtins(call.parameters).items():
        if isinstance(value, bool):
            message.parameters[name].bool_param = value
        elif isinstance(value, int):
            message.parameters[name].int64_param = value
        else:
            message.parameters[name].string_param = value
    return message


def vectors_of(answer: Any, call: PoolingCall) -> list[bytes]:
    """Raises Unavailable for what the contract does not say."""
    if len(answer.outputs) != 1 or len(answer.raw_output_contents) != 1:
        raise Unavailable("the predictor's answer is not what the contract says: it must be one tensor")
    output = answer.outputs[0]
    return split(output.datatype, list(output.shape), answer.raw_output_contents[0], call)


def _add(message: Any, name: str, shape: list[int], data: list[int]) -> None:
    message.inputs.add(name=name, datatype="INT32", shape=shape)
    message.raw_input_contents.append(struct.pack(f"<{len(data)}i", *data))
