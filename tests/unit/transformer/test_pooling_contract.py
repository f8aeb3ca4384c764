"""The pooling call between transformer and predictor: what one writes the other reads, over REST and over gRPC."""

from __future__ import annotations

import struct

import pytest

from pilotlight_predictor.pooling_tensors import pool_prompts, vector_tensors
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.pooling import PooledVector, PoolingInfo, PoolingParameters, parse_pooling_parameters
from pilotlight_protocol.v2 import InferRequest, InferResponse, decode_request, encode_response
from pilotlight_serving.grpc_messages import request_from, response_to
from pilotlight_text.pooling_source import PoolingCall, PoolingRow
from pilotlight_text.token_source import AnswerFacts
from pilotlight_transformer import grpc_pooling, rest_pooling

FACTS = AnswerFacts({}, {})
PARAMETERS = PoolingParameters(dimensions=3, use_activation=False, priority=-2, cache_salt="s")
CALLS = [
    PoolingCall("demo", "r", [PoolingRow([5])], PoolingParameters()),
    PoolingCall("demo", "r", [PoolingRow([5, 6, 7]), PoolingRow([8])], PARAMETERS),
    PoolingCall("demo", "r", [PoolingRow([5, 6], 1), PoolingRow([8, 9, 9]), PoolingRow([1], 0)], PoolingParameters()),
]


def read(request: InferRequest, call: PoolingCall) -> None:
    assert pool_prompts(request, 64) == [(row.input_ids, row.pair_start) for row in call.rows]
    given = {name: value for name, value in request.parameters.items() if name != "binary_data_output"}
    assert parse_pooling_parameters(given) == call.parameters
    assert request.id == call.request_id


def answered(call: PoolingCall) -> tuple[InferResponse, list[bytes]]:
    vectors = [struct.pack("<3f", place, 0.5, -1.25e-7) for place in range(len(call.rows))]
    tensors = vector_tensors([PooledVector(vector, 1) for vector in vectors], PoolingInfo("embed", 3))
    return InferResponse("demo", "1", tensors, call.request_id, {"prompt_tokens": 4}), vectors


@pytest.mark.parametrize("call", CALLS)
def test_over_rest(call: PoolingCall) -> None:
    request = decode_request(rest_pooling.request_body(call))
    read(request, call)
    response, vectors = answered(call)
    body, length = encode_response(response, request)
    answer = rest_pooling.read_answer(body, {"inference-header-content-length": str(length)}, call, FACTS)
    assert answer.vectors == vectors


@pytest.mark.parametrize("call", CALLS)
def test_over_grpc(call: PoolingCall) -> None:
    message = grpc_pooling.request_message(call)
    request = request_from(message)
    read(request, call)
    response, vectors = answered(call)
    assert grpc_pooling.vectors_of(response_to(response, request, raw=True), call) == vectors


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"{}", "2"),
        (b"not json", "8"),
        (b'{"outputs": []}', "15"),
        (b'{"outputs": [{"datatype": "FP32", "shape": [1, 2]}]}' + bytes(4), "52"),
        (b'{"outputs": [{"datatype": "FP64", "shape": [1, 1]}]}' + bytes(4), "52"),
        (b'{"outputs": [{"datatype": "FP32", "shape": [2, 1]}]}' + bytes(4), "52"),
        (b'{"outputs": [{"datatype": "FP32", "shape": [1, 0]}]}', "52"),
        (b'{"outputs": [{"datatype": "FP32", "shape": [4]}]}' + bytes(4), "49"),
        (bytes(8), "many"),
        (bytes(8), ""),
    ],
)
def test_an_answer_that_the_contract_does_not_say(body: bytes, length: str) -> None:
    with pytest.raises(Unavailable, match="contract"):
        rest_pooling.read_answer(body, {"inference-header-content-length": length}, CALLS[0], FACTS)
