"""What a whole answer of pods has taken, in the words of every surface."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pilotlight_gateway.cascade.asked_logprobs import without_logprobs
from pilotlight_gateway.cascade.first_answer import FirstAnswer
from pilotlight_gateway.jobs.job_records import json_or_text
from pilotlight_gateway.pods_way.pods_answer import note_usage, refusal
from pilotlight_gateway.request_steps import TokenUsage


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}, TokenUsage(9, 3, 0)),
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
            TokenUsage(9, 3, 4),
        ),
        ({"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}}, TokenUsage(9, 3, 4)),
        ({"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": 4}, TokenUsage(9, 3, 4)),
        (
            {"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 1},
            TokenUsage(10, 3, 4),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 3, "cached_tokens": 4}, TokenUsage(9, 3, 4)),
        ({"prompt_tokens": 9, "total_tokens": 9}, TokenUsage(9, 0, 0)),
        (None, TokenUsage()),
        ("none", TokenUsage()),
    ],
)
def test_usage_is_read_in_every_surfaces_words(usage: Any, counted: TokenUsage) -> None:
    noted = TokenUsage()
    note_usage(json.dumps({"usage": usage}).encode(), noted)
    assert noted == counted


DEEP = b'{"usage": {"x": ' + b"[" * 50_000 + b"]" * 50_000 + b'}, "error": 1}'


def test_an_answer_that_is_nested_too_deeply_is_as_no_json() -> None:
    noted = TokenUsage()
    note_usage(DEEP, noted)
    assert noted == TokenUsage()
    assert refusal(DEEP, 500) == "status 500"
    first = FirstAnswer()
    first.take(DEEP)
    first.take_events(b"data: " + DEEP + b"\n\n")
    assert not first.choices
    assert isinstance(json_or_text(DEEP), str)
    assert without_logprobs(DEEP.replace(b"usage", b"logprobs")) == DEEP.replace(b"usage", b"logprobs")
