"""What goes on with another engine and how, table by table."""

from __future__ import annotations

from typing import Any

import pytest

from pilotlight_engine.contract import GenerateRequest
from pilotlight_engine.leasing.resume import CannotResume, Delivered, Part, as_original, rest_of
from pilotlight_protocol.generation import GenerationParameters, RepetitionDetection, TokenDelta, TokenLogprob
from pilotlight_protocol.structured_outputs import StructuredOutputs


def request(**parameters: Any) -> GenerateRequest:
    return GenerateRequest("r", [1, 2], GenerationParameters(**parameters), "adapter", "trace")


def rest(asked: GenerateRequest, delivered: list[Delivered], default_max_tokens: int | None = None) -> list[Part]:
    parts = rest_of(asked, delivered, default_max_tokens, 1)
    assert isinstance(parts, list)
    return parts


@pytest.mark.parametrize(
    ("parameters", "goes_on"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0, "seed": 7}, True),
        ({}, True),
        ({"temperature": 0.8, "top_p": 0.9}, True),
        ({"seed": 7}, False),
        ({"temperature": 0.8, "seed": 7}, False),
        ({"temperature": 0, "presence_penalty": 0.1}, False),
        ({"temperature": 0, "frequency_penalty": -0.1}, False),
        ({"temperature": 0, "repetition_penalty": 1.2}, True),
        ({"temperature": 0, "repetition_detection": RepetitionDetection(4, 0, 3)}, False),
        ({"temperature": 0, "bad_words_token_ids": [[7], [8, 9]]}, False),
        ({"temperature": 0, "bad_words_token_ids": [[7], [8]], "logit_bias": {5: 1.0}}, True),
        ({"temperature": 0, "allowed_token_ids": [5, 6], "logprobs": 1, "logprob_token_ids": [5]}, True),
        ({"structured_outputs": StructuredOutputs(regex="a+")}, True),
        ({"temperature": 0, "stop_token_ids": [9], "ignore_eos": True, "logprobs": 2, "cache_salt": "s"}, True),
    ],
)
def test_what_can_go_on_once_tokens_were_delivered(parameters: dict[str, Any], goes_on: bool) -> None:
    decided = rest_of(request(**parameters), [Delivered([5, 6])], None, 1)
    assert isinstance(decided, CannotResume) is not goes_on
    if isinstance(decided, CannotResume):
        assert "after 2 tokens" in decided.reason


@pytest.mark.parametrize("parameters", [{"seed": 7}, {"presence_penalty": 1.0}, {"n": 3, "seed": 1}])
def test_with_nothing_delivered_the_same_request_is_made_again(parameters: dict[str, Any]) -> None:
    asked = request(**parameters)
    (part,) = rest(asked, [Delivered() for _ in range(asked.parameters.n)])
    assert part.choice is None
    assert part.request.parameters == asked.parameters
    assert part.request.prompt_token_ids == [1, 2]
    assert part.request.request_id != asked.request_id


@pytest.mark.parametrize(
    ("max_tokens", "min_tokens", "default", "left", "at_least"),
    [(10, 5, None, 7, 2), (10, 2, None, 7, 0), (None, 0, None, None, 0), (None, 0, 8, 5, 0), (10, 0, 8, 7, 0)],
)
def test_lengths_are_what_is_left(
    max_tokens: int | None, min_tokens: int, default: int | None, left: int | None, at_least: int
) -> None:
    asked = request(max_tokens=max_tokens, min_tokens=min_tokens, stop_token_ids=[9], temperature=0)
    (part,) = rest(asked, [Delivered([5, 6, 7])], default)
    assert part.request.prompt_token_ids == [1, 2, 5, 6, 7]
    assert (part.request.parameters.max_tokens, part.request.parameters.min_tokens) == (left, at_least)
    assert part.request.parameters.stop_token_ids == [9]
    assert (part.request.lora, part.request.traceparent) == ("adapter", "trace")
    assert part.request.output_tokens == 3
    (again,) = rest(part.request, [Delivered([8])], default)
    assert again.request.output_tokens == 4
    assert asked.prompt_token_ids == [1, 2]


def test_each_unfinished_choice_goes_on_by_itself() -> None:
    asked = request(n=3, max_tokens=4)
    parts = rest(asked, [Delivered([5], finished=True), Delivered([6]), Delivered()])
    assert [(part.choice, part.request.prompt_token_ids, part.request.parameters.n) for part in parts] == [
        (1, [1, 2, 6], 1),
        (2, [1, 2], 1),
    ]
    assert len({part.request.request_id for part in parts}) == 2


def test_a_part_is_told_as_the_choice_it_continues() -> None:
    asked = request(n=2, logprobs=1)
    part = rest(asked, [Delivered([5], opened=True), Delivered([6])])[1]
    raw = TokenDelta(0, [8], "stop", 9, [TokenLogprob(8, -0.1)], prompt_tokens=3, cached_tokens=2)
    told = as_original(raw, part, asked, opened=True)
    assert told == TokenDelta(1, [8], "stop", 9, [TokenLogprob(8, -0.1)])


@pytest.mark.parametrize(("opened", "prompt_tokens"), [(False, 2), (True, -1)])
def test_the_prompts_size_is_told_once_and_is_the_clients(opened: bool, prompt_tokens: int) -> None:
    asked = request(n=2, prompt_logprobs=1)
    part = rest(asked, [Delivered(opened=opened), Delivered([6])])[0]
    assert part.request.parameters.prompt_logprobs == (None if opened else 1)
    told = as_original(TokenDelta(0, [8], prompt_tokens=2, cached_tokens=0), part, asked, opened)
    assert told.prompt_tokens == prompt_tokens
