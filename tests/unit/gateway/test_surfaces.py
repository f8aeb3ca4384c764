"""Paths that name a model, and what a component calls them."""

from __future__ import annotations

import pytest

from pilotlight_gateway.surfaces import component_path, makes_tokens, model_path


@pytest.mark.parametrize(
    ("path", "model", "version", "component"),
    [
        ("/v2/models/a/infer", "a", "", "/v2/models/m/infer"),
        ("/v2/models/a", "a", "", "/v2/models/m"),
        ("/v2/models/a/", "a", "", "/v2/models/m"),
        ("/v2/models/a/ready", "a", "", "/v2/models/m/ready"),
        ("/v2/models/team/a/generate_stream", "team/a", "", "/v2/models/m/generate_stream"),
        ("/v2/models/team%2Fa/generate", "team/a", "", "/v2/models/m/generate"),
        ("/v2/models/a/versions/1/infer", "a", "1", "/v2/models/m/versions/1/infer"),
        ("/v2/models/org/a/versions/1", "org/a", "1", "/v2/models/m/versions/1"),
        ("/v2/models/infer", "infer", "", "/v2/models/m"),
        ("/v2/models/a%20b/infer", "a b", "", "/v2/models/m/infer"),
    ],
)
def test_paths_of_v2(path: str, model: str, version: str, component: str) -> None:
    named = model_path(path)
    assert named is not None
    assert (named.model, named.version, component_path(path)) == (model, version, component)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v2/models", "/v2/models/", "/tokenize", "/v2/health/live"])
def test_paths_without_a_model(path: str) -> None:
    assert model_path(path) is None
    assert component_path(path) == path


@pytest.mark.parametrize(
    ("method", "path", "engine"),
    [
        ("POST", "/v1/chat/completions", True),
        ("POST", "/v1/embeddings", True),
        ("POST", "/tokenize", False),
        ("POST", "/v1/messages/count_tokens", False),
        ("POST", "/v1/responses/input_tokens", False),
        ("POST", "/v1/chat/completions/render", False),
        ("GET", "/v2/models/m", False),
    ],
)
def test_what_needs_an_engine(method: str, path: str, engine: bool) -> None:
    assert makes_tokens(method, path) == engine
