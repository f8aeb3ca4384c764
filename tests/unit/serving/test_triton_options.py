"""What tritonclient sends as options of a call is understood, and nothing else is taken from the model."""

from typing import Any

import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_serving.triton_options import take_options


def test_options_are_taken_out_of_the_parameters() -> None:
    parameters: dict[str, Any] = {
        "timeout": 2_500_000,
        "sequence_id": "talk",
        "sequence_end": True,
        "triton_enable_empty_final_response": True,
        "priority": 1,
        "max_tokens": 4,
    }
    options = take_options(parameters)
    assert (options.timeout_s, options.wants_empty_final) == (2.5, True)
    assert options.sequence == {"sequence_id": "talk", "sequence_end": True}
    assert parameters == {"priority": 1, "max_tokens": 4}


@pytest.mark.parametrize("parameters", [{}, {"timeout": 0}, {"timeout": None}])
def test_no_timeout(parameters: dict[str, Any]) -> None:
    assert take_options(parameters).timeout_s is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", -1),
        ("timeout", True),
        ("timeout", 1.5),
        ("timeout", "5"),
        ("timeout", 2**63),
        ("sequence_id", 1.5),
        ("sequence_id", [1]),
        ("sequence_start", 1),
        ("sequence_end", "yes"),
    ],
)
def test_values_of_the_wrong_kind_are_named(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as refused:
        take_options({name: value})
    assert refused.value.param == name
