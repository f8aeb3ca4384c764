"""The generate body and the infer tensors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.v2 import InferRequest, Tensor
from pilotlight_text.detokenization.text_stream import Completion, Piece, Usage
from pilotlight_text.token_source import AnswerFacts
from pilotlight_text.tokenization.truncation import Truncation
from pilotlight_text.v2_api.requests import output_tensors, read_generate, read_infer


def tensor(values: list[bytes], shape: list[int], name: str = "text_input") -> Tensor:
    return Tensor(name, "BYTES", shape, list(values))


@pytest.mark.parametrize(
    "body",
    [
        {"text_input": "hi", "parameters": {"temperature": 0.5, "stop": "x"}},
        {"text_input": "hi", "temperature": 0.5, "stop": ["x"], "stream": False},
        {"text_input": ["hi"], "temperature": 1.9, "parameters": {"temperature": 0.5, "stop": "x", "stream": False}},
        {"text_input": "hi", "parameters": {"temperature": 0.5, "exclude_input_in_output": True, "stop": "x"}},
    ],
)
def test_parameters_nested_and_flat(body: dict[str, Any]) -> None:
    call = read_generate(json.dumps(body).encode())
    assert (call.texts, call.parameters.temperature, call.parameters.stop) == (["hi"], 0.5, ["x"])
    assert not call.stream


def test_what_is_done_to_text_is_taken_beside_the_parameters() -> None:
    given = {"skip_special_tokens": False, "truncate_prompt_tokens": -1, "truncation_side": "right", "max_tokens": 9}
    call = read_generate(json.dumps({"text_input": "hi", "parameters": {**given, "bad_words": ["x"]}}).encode())
    assert not call.skip_special_tokens
    assert call.truncation == Truncation(-1, "right", room=9)
    assert call.parameters.bad_words == ["x"]
    plain = read_generate(b'{"text_input": "hi"}')
    assert (plain.skip_special_tokens, plain.truncation) == (True, None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text_input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"text_input": "a", "truncate_prompt_tokens": "7"}, "truncate_prompt_tokens"),
        ({"text_input": "a", "truncation_side": "top"}, "truncation_side"),
        ({"text_input": "a", "skip_special_tokens": 0}, "skip_special_tokens"),
        ({"text_input": "a", "top_p": 0}, "top_p"),
        ({}, "text_input"),
        ({"text_input": 1}, "text_input"),
        ({"text_input": ["a", "b"]}, "text_input"),
        ({"text_input": "a", "id": 1}, "id"),
        ({"text_input": "a", "parameters": [1]}, "parameters"),
        ({"text_input": "a", "stream": "yes"}, "stream"),
        ({"text_input": "a", "max_tokens": "x"}, "max_tokens"),
        ({"text_input": "a", "exclude_input_in_output": False}, "exclude_input_in_output"),
        ({"text_input": "a", "surprise": 1}, "surprise"),
        ({"text_input": "a", "top_k": "x", "parameters": {"top_k": 1}}, "top_k"),
    ],
)
def test_bad_bodies_name_the_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_generate(json.dumps(body).encode())
    assert caught.value.param == param


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_a_batch_of_texts(shape: list[int]) -> None:
    call = read_infer(InferRequest([tensor([b"a", "é".encode()], shape)], id="7", parameters={"n": 2}))
    assert (call.texts, call.id, call.parameters.n) == (["a", "é"], "7", 2)


BAD_TENSORS = [
    ([], "this model takes one input"),
    ([tensor([b"a"], [1], "text")], "there is no input 'text'"),
    ([tensor([b"a"], [1]), tensor([b"a"], [1], "more")], "there is no input 'more'"),
    ([Tensor("text_input", "INT32", [1], [0])], "must be BYTES, not INT32"),
    ([tensor([b"a", b"b"], [1, 2])], "must have shape"),
    ([tensor([], [0])], "must have shape"),
    ([tensor([b"\xff"], [1])], "not valid UTF-8"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD_TENSORS)
def test_bad_tensors(inputs: list[Tensor], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_infer(InferRequest(inputs))


def test_output_tensors_have_a_column_per_choice() -> None:
    one = Completion([Piece(0, "a", None, "stop")], Usage(), AnswerFacts(), None)
    two = Completion([Piece(0, "b", None, "stop"), Piece(1, "c", None, "length")], Usage(), AnswerFacts(), None)
    text, reason = output_tensors([one], 1)
    assert (text.shape, text.data, reason.data) == ([1], [b"a"], [b"stop"])
    text, reason = output_tensors([two], 2)
    assert (text.shape, text.data, reason.data) == ([1, 2], [b"b", b"c"], [b"stop", b"length"])
