"""The document's request schemas and the code that reads requests cannot disagree."""

from __future__ import annotations

import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters, parse_parameters
from pilotlight_wire.openapi_operations import generation_parameters

PROPERTIES = generation_parameters()["properties"]


def test_every_parameter_is_described() -> None:
    assert list(PROPERTIES) == list(GenerationParameters.__struct_fields__)


@pytest.mark.parametrize("name", PROPERTIES)
def test_bounds_are_those_of_the_decoder(name: str) -> None:
    parse_parameters({name: None})
    assert {"type": "null"} in PROPERTIES[name]["anyOf"]
    for kind in PROPERTIES[name]["anyOf"]:
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            if bound in kind:
                parse_parameters({"max_tokens": 2**31 - 1, "logprobs": 1} | {name: kind[bound]})
                with pytest.raises(InvalidInput, match=name):
                    parse_parameters({name: kind[bound] + beyond})


@pytest.mark.parametrize(("name", "value"), [("stop", "x"), ("stop_token_ids", 7)])
def test_one_item_of_a_list_may_stand_alone(name: str, value: object) -> None:
    assert getattr(parse_parameters({name: value}), name) == [value]
    lists = [kind["items"] for kind in PROPERTIES[name]["anyOf"] if "items" in kind]
    assert lists[0] in PROPERTIES[name]["anyOf"]
