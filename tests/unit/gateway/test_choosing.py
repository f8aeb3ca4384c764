"""Which targets a request goes to: tables of rules, and what shares of users hold to."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.routing import request_facts
from pilotlight_gateway.routing.choosing import choose, share_point
from pilotlight_gateway.routing.prompt_lengths import PromptLengths
from pilotlight_gateway.routing.request_facts import RequestFacts
from pilotlight_gateway.routing.route_spec import CanarySpec, HeaderMatch, RouteSpec, RuleSpec, VersionSpec


def facts(tenant: str = "team", body: Any = None, version: str = "", **headers: str) -> RequestFacts:
    raw = json.dumps(body if body is not None else {}).encode()
    return RequestFacts(tenant, headers, raw, path_version=version, fallback_identity="k1")


def said(route: RouteSpec, asked: RequestFacts, percent: float = 0.0) -> str | None:
    chosen = choose(route, asked, percent)
    return None if chosen is None else next(iter(chosen.values()))


FAST, LONG = (
    RuleSpec(targets=("a/fast",), prompt_tokens_below=512),
    RuleSpec(targets=("a/long",), prompt_tokens_above=4096),
)
GOLD = RuleSpec(targets=("a/gold",), headers=(HeaderMatch(name="x-tier", values=("gold", "platinum")),))
BETA = RuleSpec(targets=("a/beta",), headers=(HeaderMatch(name="x-app", prefix="beta-"),), tenants=("team",))
ROUTE = RouteSpec(
    name="chat",
    targets=("a/b",),
    versions=(VersionSpec(version="v2", targets=("a/v2",)),),
    rules=(GOLD, BETA, FAST, LONG),
    canary=CanarySpec(targets=("a/next",), percent=100),
)


def prompt(tokens: int) -> dict[str, Any]:
    return {"prompt": [1] * tokens}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (facts(version="v2"), "version"),
        (facts(**{"x-model-version": "v2", "x-tier": "gold"}), "version"),
        (facts(version="v3"), None),
        (facts(**{"x-tier": "gold"}), "rule 1"),
        (facts(**{"x-tier": "platinum", "x-app": "beta-1"}), "rule 1"),
        (facts(**{"x-tier": "Gold"}, body=prompt(600)), "canary"),
        (facts(**{"x-app": "beta-1"}), "rule 2"),
        (facts(tenant="other", **{"x-app": "beta-1"}, body=prompt(600)), "canary"),
        (facts(**{"x-app": "abeta-1"}, body=prompt(600)), "canary"),
        (facts(body=prompt(511)), "rule 3"),
        (facts(body=prompt(512)), "canary"),
        (facts(body=prompt(4096)), "canary"),
        (facts(body=prompt(4097)), "rule 4"),
    ],
)
def test_a_version_then_the_first_rule_then_the_canary(asked: RequestFacts, why: str | None) -> None:
    assert said(ROUTE, asked, 100.0) == why


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"messages": [{"role": "user", "content": "abcdefgh"}]}, 2),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "abcdefgh"}]}]}, 2),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 999}}]}]}, 0),
        ({"prompt": ["abcd", "abcd"]}, 2),
        ({"prompt": [[1, 2, 3], [4]]}, 4),
        ({"input": "abcd", "instructions": "abcd"}, 2),
        ({"system": [{"type": "text", "text": "abcd"}], "messages": [{"role": "user", "content": "abcd"}]}, 2),
        ({"prompt": "é" * 4}, 2),
        ({"prompt": "中" * 4}, 3),
        ({"prompt": None, "messages": 7, "other": "abcdefgh"}, 0),
        ([], 0),
        ("text", 0),
    ],
)
def test_how_long_a_prompt_is(body: Any, tokens: int) -> None:
    assert facts(body=body).prompt_tokens() == tokens


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"messages":[' + b",".join([b'{"content":"a"}'] * 10_000) + b"]}", 40_004),
        (b'{"prompt":[' + b",".join([b"12"] * 40_000) + b"]}", 30_003),
        (b'{"url":"data:image/png;base64,' + b"A" * 400_000 + b'","text":"' + b"b" * 4000 + b'"}', 1009),
        (b'"' + b";base64," * 100_000, 200_001),
        (b"[" * 200_000, 50_000),
    ],
)
def test_a_large_body_is_as_long_as_its_bytes(body: bytes, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_facts, "_prompt", None)  # it is not read
    asked = RequestFacts("team", {}, body, fallback_identity="k")
    assert asked.prompt_tokens() == tokens
    assert not asked.is_read


def test_a_body_that_is_nested_too_deeply_has_no_user() -> None:
    asked = RequestFacts("team", {}, b'{"x":' + b"[" * 50_000, fallback_identity="k")
    assert asked.identity() == "team\nkey\nk"
    assert asked.prompt_tokens() == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(("messages", "prompt", "input", "user", "metadata", "tools")), JSON), st.binary()
)
def test_no_body_breaks_a_decision(body: dict[str, Any], raw: bytes) -> None:
    for content in (json.dumps(body).encode(), raw):
        asked = RequestFacts("team", {}, content, fallback_identity="k")
        assert asked.prompt_tokens() >= 0
        assert asked.identity().startswith("team\n")


@pytest.mark.parametrize(
    ("body", "headers", "same_as"),
    [
        ({"user": "u1"}, {}, "user"),
        ({"user": "u1"}, {"x-session-id": "s1"}, "user"),
        ({"metadata": {"user_id": "u1"}}, {}, "user"),
        ({"user": 7}, {"x-session-id": "s1"}, "session"),
        ({"user": ""}, {"x-session-id": "s1"}, "session"),
        ({}, {}, "key"),
    ],
)
def test_who_a_request_is_of(body: Any, headers: dict[str, str], same_as: str) -> None:
    assert facts(body=body, **headers).identity().split("\n")[1] == same_as


@given(st.text(min_size=1), st.text(), st.floats(0, 100), st.floats(0, 100))
def test_a_larger_share_moves_nobody_back(route: str, who: str, one: float, other: float) -> None:
    smaller, larger = sorted((one, other))
    point = share_point(route, who)
    assert 0 <= point < 100
    assert not (point < smaller) or point < larger


@pytest.mark.parametrize("percent", [1, 5, 25, 50])
def test_a_share_is_as_large_as_it_says(percent: float) -> None:
    users = 20_000
    inside = sum(share_point("chat", f"team\nuser\n{number}") < percent for number in range(users))
    expected = users * percent / 100
    assert abs(inside - expected) < 4 * math.sqrt(expected)
    both = sum(
        share_point("chat", f"{number}") < percent and share_point("other", f"{number}") < percent
        for number in range(users)
    )
    assert both < users * (percent / 100) ** 2 + 4 * math.sqrt(users * (percent / 100) ** 2) + 4


def test_an_estimate_is_corrected_by_what_was_counted() -> None:
    lengths = PromptLengths()
    for _ in range(100):
        lengths.observe("chat", 100, 150)
    lengths.observe("chat", 100, 0)
    lengths.observe("other", 1, 10**6)
    assert lengths.ratio("chat") == pytest.approx(1.5, rel=0.01)
    assert lengths.ratio("other") == pytest.approx(1.3)
    assert lengths.ratio("never seen") == 1.0
