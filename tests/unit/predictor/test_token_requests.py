"""What the predictor takes and refuses, and whether the refusal names what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pilotlight_engine.admission import RequestLimits, fit
from pilotlight_predictor.token_parameters import parameters_from
from pilotlight_predictor.token_tensors import prompts_from
from pilotlight_protocol.errors import ContextLengthExceeded, InvalidInput, PayloadTooLarge, PilotlightError
from pilotlight_protocol.generation import GenerationParameters, decode_generate
from pilotlight_protocol.v2 import InferRequest, Tensor


def ids(values: Any, datatype: str = "INT32", name: str = "input_ids") -> Tensor:
    array = np.array(values)
    return Tensor(name, datatype, list(array.shape), array.reshape(-1).tolist())


def lengths(values: Any, datatype: str = "INT32") -> Tensor:
    return ids(values, datatype, "input_lengths")


@pytest.mark.parametrize(
    ("inputs", "prompts"),
    [
        ([ids([[1, 2, 3]])], [[1, 2, 3]]),
        ([ids([1, 2, 3])], [[1, 2, 3]]),
        ([ids([[1, 2], [3, 4]], "INT64")], [[1, 2], [3, 4]]),
        ([ids([[1, 2, 0], [3, 0, 0]]), lengths([2, 1])], [[1, 2], [3]]),
        ([ids([[1, 2, 0], [3, 0, 0]]), lengths([[2], [1]])], [[1, 2], [3]]),
    ],
)
def test_prompts(inputs: list[Tensor], prompts: list[list[int]]) -> None:
    assert prompts_from(InferRequest(inputs), max_batch=4) == prompts


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        ([], InvalidInput, "'input_ids' is missing"),
        ([ids([1]), ids([1], name="texts")], InvalidInput, "no input 'texts'"),
        ([ids([[1.0]], "FP32")], InvalidInput, "not FP32"),
        ([ids([[[1]]])], InvalidInput, "[batch, seq]"),
        ([ids([[]])], InvalidInput, "empty"),
        ([ids([[1]] * 5)], PayloadTooLarge, "a batch of 5 rows; at most 4"),
        ([ids([[1, 2]]), lengths([3])], InvalidInput, "input_lengths[0] is 3; it must be from 1 to 2"),
        ([ids([[1, 2]]), lengths([0])], InvalidInput, "input_lengths[0] is 0"),
        ([ids([[1, 2]]), lengths([1, 1])], InvalidInput, "must be [1]"),
        ([ids([[1, 2]]), lengths([1.0], "FP32")], InvalidInput, "not FP32"),
    ],
)
def test_bad_tensors_are_named(inputs: list[Tensor], error: type[PilotlightError], words: str) -> None:
    with pytest.raises(error) as caught:
        prompts_from(InferRequest(inputs), max_batch=4)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("prompt", "parameters", "error", "words"),
    [
        ([], {}, InvalidInput, "empty"),
        ([1, 100], {}, InvalidInput, "token id 100 is not in the vocabulary, 0 to 99"),
        ([-1], {}, InvalidInput, "token id -1"),
        ([1] * 9, {}, PayloadTooLarge, "9 tokens; at most 8"),
        ([1] * 8, {"max_tokens": 9}, InvalidInput, "17 tokens (8 in the prompt, 9 in the completion)"),
        ([1], {"max_tokens": 13}, InvalidInput, "'max_tokens' is 13; this server generates at most 12"),
        ([1], {"n": 5}, PayloadTooLarge, "5 sequences; at most 4"),
        *(
            ([1], {name: value}, InvalidInput, f"parameter '{name}': token id 100 is not in the vocabulary, 0 to 99")
            for name, value in (
                ("logit_bias", {7: 1.0, 100: 1.0}),
                ("allowed_token_ids", [99, 100]),
                ("stop_token_ids", [100]),
                ("logprob_token_ids", [100]),
                ("bad_words_token_ids", [[1], [2, 100]]),
            )
        ),
    ],
)
def test_what_does_not_fit_is_told_with_numbers(
    prompt: list[int], parameters: dict[str, Any], error: type[PilotlightError], words: str
) -> None:
    limits = RequestLimits(max_prompt_tokens=8, max_output_tokens=12, max_batch=4, max_sequences=4)
    with pytest.raises(error) as caught:
        fit([prompt], GenerationParameters(**parameters), limits, vocab_size=100, max_model_len=16)
    assert words in caught.value.message


def test_a_prompt_must_leave_room_for_one_token() -> None:
    with pytest.raises(ContextLengthExceeded, match=r"context length is 16 tokens.* requested 17 tokens"):
        fit([[1] * 16], GenerationParameters(), RequestLimits(), vocab_size=100, max_model_len=16)


def test_the_servers_limit_stands_in_for_max_tokens() -> None:
    limits = RequestLimits(max_output_tokens=12)
    assert fit([[1]], GenerationParameters(), limits, 100, 1000).max_tokens == 12
    assert fit([[1]], GenerationParameters(max_tokens=3), limits, 100, 1000).max_tokens == 3
    assert fit([[1]], GenerationParameters(), RequestLimits(), 100, 1000).max_tokens is None


@pytest.mark.parametrize("name", ["stop", "bad_words"])
def test_strings_are_the_transformers_work(name: str) -> None:
    with pytest.raises(InvalidInput, match="transformer") as caught:
        parameters_from({name: ["\n"]})
    assert caught.value.param == name


def test_choices_that_cannot_differ_are_the_transformers_to_make() -> None:
    with pytest.raises(InvalidInput, match="greedy"):
        parameters_from({"n": 2, "temperature": 0})


def test_the_protocols_own_parameter_is_no_generation_parameter() -> None:
    assert parameters_from({"binary_data_output": True, "max_tokens": 3}).max_tokens == 3


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[]", b"{}", b'{"input_ids": "1"}', b'{"input_ids": [1], "x": 2}'])
def test_bad_generate_bodies(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_generate(body)
