"""Request parameters: what is taken, what is refused, and that the message names the culprit."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters, RepetitionDetection, parse_parameters
from pilotlight_protocol.structured_outputs import StructuredOutputs


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5.0}, {"max_tokens": 5}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": '["a","b"]'}, {"stop": ["a", "b"]}),
        ({"stop": "[not json"}, {"stop": ["[not json"]}),
        ({"stop_token_ids": "[1,2]"}, {"stop_token_ids": [1, 2]}),
        ({"stop_token_ids": 7}, {"stop_token_ids": [7]}),
        ({"top_k": 0}, {"top_k": -1}),
        ({"temperature": None}, {}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"n": 2, "temperature": 0}, {"n": 2, "temperature": 0.0}),
        ({"seed": -1}, {}),
        ({"logit_bias": {"5": -100, "7": 0.5}}, {"logit_bias": {5: -100.0, 7: 0.5}}),
        ({"logit_bias": '{"5": 1}'}, {"logit_bias": {5: 1.0}}),
        ({"allowed_token_ids": "[1, 2]"}, {"allowed_token_ids": [1, 2]}),
        ({"bad_words": "ugly"}, {"bad_words": ["ugly"]}),
        ({"bad_words_token_ids": "[[1], [2, 3]]"}, {"bad_words_token_ids": [[1], [2, 3]]}),
        ({"repetition_detection": {"max_pattern_size": 0}}, {}),
        (
            {"repetition_detection": '{"max_pattern_size": 4, "min_count": 3}'},
            {"repetition_detection": RepetitionDetection(4, 0, 3)},
        ),
        ({"logprobs": 1, "logprob_token_ids": 4}, {"logprobs": 1, "logprob_token_ids": [4]}),
        ({"structured_outputs": {"regex": "a+"}}, {"structured_outputs": StructuredOutputs(regex="a+")}),
        ({"structured_outputs": '{"regex": "a+"}'}, {"structured_outputs": StructuredOutputs(regex="a+")}),
        ({"structured_outputs": StructuredOutputs(regex="a+")}, {"structured_outputs": StructuredOutputs(regex="a+")}),
    ],
)
def test_taken(raw: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    assert parse_parameters(raw) == GenerationParameters(**expected)


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "8"}, "max_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"n": 0}, "n"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop_token_ids": "nope"}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"seed": 2**70}, "seed"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": 2.1}, "temperature"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 100.5}}, "logit_bias"),
        ({"logit_bias": {"5": "high"}}, "logit_bias"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"logit_bias": "{"}, "logit_bias"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids"),
        ({"bad_words": [""]}, "bad_words"),
        ({"bad_words_token_ids": [[]]}, "bad_words_token_ids"),
        ({"logprob_token_ids": [1]}, "logprob_token_ids"),
        ({"logprobs": 0, "logprob_token_ids": [1] * 129}, "logprob_token_ids"),
        ({"repetition_detection": {"max_pattern_size": 2}}, "repetition_detection"),
        ({"repetition_detection": {"max_pattern_size": -2}}, "repetition_detection"),
        ({"repetition_detection": {"size": 2}}, "repetition_detection"),
        ({"stream_interval": 0}, "stream_interval"),
        ({"structured_outputs": "{"}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs"),
    ],
)
def test_refused_by_name(raw: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_parameters(raw)
    assert caught.value.param == param
    assert param in caught.value.message


def test_a_number_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="signaling NaN"):
        parse_parameters({"temperature": Decimal("sNaN")})


@given(
    st.dictionaries(
        st.sampled_from(GenerationParameters.__struct_fields__),
        st.from_type(object) | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
    )
)
def test_anything_is_either_taken_or_invalid_input(raw: dict[str, Any]) -> None:
    try:
        parse_parameters(raw)
    except InvalidInput as error:
        assert error.message
