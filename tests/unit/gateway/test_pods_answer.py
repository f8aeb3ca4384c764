"""What a whole answer of pods has taken, in the words of every surface."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pilotlight_gateway.pods_way.pods_answer import note_usage
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
