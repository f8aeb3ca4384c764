"""Who may call from a browser, and what is said to it."""

import pytest

from pilotlight_wire.cors import CorsPolicy, allowed_origins

PREFLIGHT = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}


def test_every_origin_may_call_by_default() -> None:
    said = CorsPolicy().preflight_headers(
        "OPTIONS", {**PREFLIGHT, "access-control-request-headers": "content-type,authorization"}
    )
    assert said is not None
    assert "POST" in said["access-control-allow-methods"]
    assert said["access-control-allow-headers"] == "content-type,authorization"
    assert CorsPolicy().answer_headers(PREFLIGHT)["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("OPTIONS", {}),
        ("OPTIONS", {"origin": "http://localhost:3000"}),
        ("POST", PREFLIGHT),
    ],
)
def test_what_is_no_preflight(method: str, headers: dict[str, str]) -> None:
    assert CorsPolicy().preflight_headers(method, headers) is None


def test_a_list_of_origins_names_the_one_that_asks() -> None:
    policy = allowed_origins("https://app.example, http://localhost:3000/")
    assert policy.answer_headers(PREFLIGHT)["access-control-allow-origin"] == "http://localhost:3000"
    assert policy.answer_headers(PREFLIGHT)["vary"] == "Origin"
    assert policy.preflight_headers("OPTIONS", PREFLIGHT | {"origin": "https://evil.example"}) is None
    assert policy.answer_headers({"origin": "https://evil.example"}) == {}


def test_no_origin_means_no_headers() -> None:
    assert CorsPolicy().answer_headers({}) == {}
    assert allowed_origins("").answer_headers(PREFLIGHT) == {}


def test_headers_that_are_asked_for_cannot_break_out_of_theirs() -> None:
    said = CorsPolicy().preflight_headers("OPTIONS", {**PREFLIGHT, "access-control-request-headers": "a\x01b"})
    assert said is not None
    assert said["access-control-allow-headers"] == "*"


@pytest.mark.parametrize("text", ["app.example", "https://app.example/path", "*.example"])
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match="SCHEME://HOST"):
        allowed_origins(text)
