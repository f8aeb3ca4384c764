"""OpenAI's `top_p` 0 is greedy, and hides no other parameter's mistake."""

from __future__ import annotations

import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.openai_api.sampling import openai_parameters


def test_the_smallest_nucleus_is_greedy() -> None:
    parameters = openai_parameters({"top_p": 0, "temperature": 1.5})
    assert (parameters.temperature, parameters.top_p) == (0.0, None)


def test_a_temperature_beside_it_is_still_checked() -> None:
    with pytest.raises(InvalidInput, match="temperature"):
        openai_parameters({"top_p": 0, "temperature": 3})
