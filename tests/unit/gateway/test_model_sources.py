"""Which models a tenant may name: nothing of the machine's own, unless its operator says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.endpoints.endpoint_rules import PUBLIC_SOURCES
from pilotlight_gateway.endpoints.model_sources import checked_source
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.model_reference import parse_model_reference

OPERATORS = (*PUBLIC_SOURCES, "s3://acme-models/", "file:///srv/models", "http://models.acme.internal/llm")


@pytest.mark.parametrize(
    ("uri", "spelled"),
    [
        ("hf://org/name", "hf://org/name"),
        ("hf://org/name:main", "hf://org/name@main"),
        ("bundled://demo-awq", "bundled://demo-awq"),
        ("https://models.example.com/llm", "https://models.example.com/llm"),
        ("s3://acme-models/llm", "s3://acme-models/llm"),
        ("file:///srv/models/a%20b", None),
        ("/srv/models/llm", "file:///srv/models/llm"),
        ("http://models.acme.internal/llm/7b", "http://models.acme.internal/llm/7b"),
    ],
)
def test_what_is_allowed_has_one_spelling(uri: str, spelled: str | None) -> None:
    assert checked_source(uri, OPERATORS, "model") == (spelled or uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "name",
        "models/llm",
        "/etc",
        "file:///etc",
        "FILE:///etc",
        "file://localhost/etc",
        "pvc://claim/folder",
        "s3://acme-models-of-others/llm",
        "s3://other/acme-models/llm",
        "gs://bucket/llm",
        "http://example.com/llm",
        "http://models.acme.internal/llm2",
        "file:///srv/models/../../etc",
        "file:///srv/models/%2e%2e/%2e%2e/etc",
        "file:///srv/models/%252e%252e/etc",
        "file:///srv/models2",
        "/srv/models/../secrets",
        "bundled://../../etc",
        "hf://../..",
        "https://localhost/llm",
        "https://127.0.0.1/llm",
        "https://169.254.169.254/latest",
        "https://[::1]/llm",
        "https://[::ffff:10.0.0.1]/llm",
        "https://10.0.0.1:8443/llm",
        "https://2130706433/llm",
        "https://127.1/llm",
        "https://0x7f.0.0.1/llm",
        "https://pool.pilotlight-system.svc/llm",
        "https://metadata.google.internal/llm",
        "https://metadata.google.internal./llm",
        "https://user:secret@models.example.com/llm",
        "https://models.example.com/a b",
        "https://models.example.com/a\nb",
        "ftp://models.example.com/llm",
    ],
)
def test_what_is_not_is_refused_in_the_words_of_the_field(uri: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked_source(uri, OPERATORS, "adapter")
    assert refused.value.param == "adapter"
    assert "/srv" not in refused.value.message.replace(uri, "") if uri else True


@given(st.text(max_size=40), st.sampled_from(["", "file://", "file:///", "pvc://", "/", "//", "FILE://"]))
def test_nothing_reaches_a_file_system_by_default(text: str, scheme: str) -> None:
    try:
        spelled = checked_source(scheme + text, PUBLIC_SOURCES, "model")
    except InvalidInput:
        return
    assert parse_model_reference(spelled).scheme in ("hf", "bundled", "https")


@given(st.text("a./%2eE5c\\", max_size=30))
def test_nothing_leaves_an_allowed_folder(path: str) -> None:
    try:
        spelled = checked_source(f"file:///srv/models/{path}", OPERATORS, "model")
    except InvalidInput:
        return
    parts = parse_model_reference(spelled).path.split("/")
    assert parts[1:3] == ["srv", "models"]
    assert ".." not in parts
