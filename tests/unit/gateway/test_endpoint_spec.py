"""What a tenant may ask for, and the one spelling of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pilotlight_gateway.endpoints.endpoint_rules import EndpointRules
from pilotlight_gateway.endpoints.endpoint_spec import EndpointSpec, changed_spec, differences, read_spec
from pilotlight_protocol.errors import InvalidInput

RULES = EndpointRules()
CHAT = {"name": "chat", "model": "hf://org/name"}


def read(**fields: Any) -> EndpointSpec:
    return read_spec(json.dumps({**CHAT, **fields}).encode(), RULES)


def changed(spec: EndpointSpec, **fields: Any) -> EndpointSpec:
    return changed_spec(spec, json.dumps(fields).encode(), RULES)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "No Name"}, "name"),
        ({"name": "0chat"}, "name"),
        ({"name": "a" * 46}, "name"),
        ({"name": "../a"}, "name"),
        ({"name": 7}, "name"),
        ({"model": ""}, "model"),
        ({"model": "file:///etc"}, "model"),
        ({"adapter": "pvc://claim"}, "adapter"),
        ({"model": "hf://a/b", "base": "hf://a/c", "adapter": "hf://a/d"}, "base"),
        ({"quantization": "q4"}, "quantization"),
        ({"max_model_len": 0}, "max_model_len"),
        ({"max_model_len": "1024"}, "max_model_len"),
        ({"tool_parser": "hermez"}, "tool_parser"),
        ({"reasoning_parser": "x\ny"}, "reasoning_parser"),
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas"),
        ({"timeout_s": 601}, "timeout_s"),
        ({"front": "back"}, "front"),
        ({"isolation": "none"}, "isolation"),
    ],
)
def test_what_is_wrong_names_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(**fields)
    assert refused.value.param == param


def test_what_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="modell"):
        read(modell="hf://org/name")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"name": "a"}', b"null"])
def test_what_is_no_endpoint_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_spec(body, RULES)


def test_an_adapter_is_named_in_two_ways_that_mean_the_same() -> None:
    one = read(model="hf://org/adapter", base="hf://org/base")
    assert one == read(model="hf://org/base", adapter="hf://org/adapter")
    assert (one.model, one.adapter) == ("hf://org/base", "hf://org/adapter")


def test_a_revision_is_written_in_two_ways_that_mean_the_same() -> None:
    assert read(model="hf://org/name:v1") == read(model="hf://org/name@v1")


def test_a_change_is_a_merge_patch() -> None:
    spec = read(max_model_len=1024, max_replicas=2)
    other = changed(spec, max_model_len=None, scale_target=4)
    assert other == read(max_replicas=2, scale_target=4)
    assert differences(spec, other) == ["max_model_len", "scale_target"]
    assert changed(spec, name="chat", max_replicas=2) == spec
    assert changed(spec, base="hf://org/base", model="hf://org/adapter").adapter == "hf://org/adapter"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "other"}, "name"),
        ({"model": None}, "model"),
        ({"model": "file:///etc"}, "model"),
        ({"min_replicas": 2}, "min_replicas"),
        ({}, None),
    ],
)
def test_a_change_that_is_none_is_refused(fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(InvalidInput) as refused:
        changed(read(), **fields)
    assert refused.value.param == param
