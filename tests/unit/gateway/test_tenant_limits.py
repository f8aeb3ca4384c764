"""The pipeline's step: what is reserved, what is told, and that what ran is counted exactly once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from endpoint_entries import entry

from pilotlight_gateway.limits.accounts import MemoryAccounts
from pilotlight_gateway.limits.limit_terms import UNLIMITED, LimitTerms
from pilotlight_gateway.limits.tenant_limits import TenantLimits
from pilotlight_gateway.request_steps import Asked, Caller, GatewayRequest, Place, TokenUsage
from pilotlight_protocol.errors import InvalidInput, TooManyRequests
from pilotlight_wire.handlers import RequestContext


class World:
    def __init__(self, terms: LimitTerms) -> None:
        self.now_s = 1_795_867_200.0
        self.terms = {"team": terms}
        self.limits = TenantLimits(
            MemoryAccounts(lambda: self.now_s), lambda name: self.terms.get(name, UNLIMITED), "p"
        )

    def request(self, tenant: str = "team", body: Any = None, **asked: Any) -> GatewayRequest:
        context = RequestContext("r", {}, json.dumps(body or {}).encode())
        return GatewayRequest(
            context, Place("POST", "/x", "/x", "/x", "/x", None), Asked(**asked), Caller(tenant), entry("chat"), "chat"
        )


async def test_what_a_cut_stream_took_is_counted_and_what_failed_is_a_request_without_tokens() -> None:
    world = World(LimitTerms(requests_per_minute=3, tokens_per_minute=1000))
    first = await world.limits.reserve(world.request(max_tokens=900))
    with pytest.raises(TooManyRequests, match="1000 tokens a minute"):
        await world.limits.reserve(world.request(max_tokens=900))
    await first.commit(TokenUsage(5, 2))
    second = await world.limits.reserve(world.request(max_tokens=900))
    assert second.headers["x-ratelimit-remaining-requests"] == "1"
    await second.commit(TokenUsage())
    third = await world.limits.reserve(world.request(max_tokens=900))
    await third.commit(TokenUsage(1, 1))
    request = world.request()
    with pytest.raises(TooManyRequests) as refused:
        await world.limits.reserve(request)
    assert refused.value.retry_after_s == 61.0
    assert request.context.response_headers["x-ratelimit-remaining-tokens"] == str(1000 - 9)


async def test_who_asks_for_nothing_but_failures_is_held_to_the_limit_of_requests() -> None:
    world = World(LimitTerms(requests_per_minute=5))
    for _ in range(5):
        await (await world.limits.reserve(world.request())).commit(TokenUsage())
    with pytest.raises(TooManyRequests, match="5 requests a minute"):
        await world.limits.reserve(world.request())


async def test_a_prompt_that_nobody_counted_is_taken_as_it_was_estimated() -> None:
    world = World(LimitTerms(tokens_per_minute=1000))
    body = {"prompt": "x" * 386}
    estimate = len(json.dumps(body)) // 4
    await (await world.limits.reserve(world.request(body=body, max_tokens=9))).commit(TokenUsage(0, 7))
    after = await world.limits.reserve(world.request(max_tokens=1))
    assert after.headers["x-ratelimit-remaining-tokens"] == str(1000 - estimate - 7 - 2)


async def test_what_nobody_waited_for_is_taken_as_it_was_reserved() -> None:
    world = World(LimitTerms(tokens_per_minute=1000))
    await (await world.limits.reserve(world.request(max_tokens=99))).commit(TokenUsage(uncounted=True))
    await (await world.limits.reserve(world.request(max_tokens=9))).commit(TokenUsage(200, 100, uncounted=True))
    after = await world.limits.reserve(world.request(max_tokens=1))
    assert after.headers["x-ratelimit-remaining-tokens"] == str(1000 - 100 - 300 - 2)


async def test_another_tenant_and_one_without_limits_are_not_touched() -> None:
    world = World(LimitTerms(concurrency=1))
    await world.limits.reserve(world.request())
    with pytest.raises(TooManyRequests):
        await world.limits.reserve(world.request())
    for _ in range(3):
        assert (await world.limits.reserve(world.request("other"))).headers == {}


async def test_an_answer_that_can_never_fit_is_refused_for_good() -> None:
    world = World(LimitTerms(tokens_per_minute=100))
    with pytest.raises(InvalidInput, match="may take 400 tokens"):
        await world.limits.reserve(world.request(max_tokens=200, n=2))


async def test_what_asks_for_no_model_counts_among_the_requests_and_nothing_else() -> None:
    world = World(LimitTerms(requests_per_minute=3, tokens_per_minute=100, concurrency=1))
    await world.limits.reserve(world.request(max_tokens=99))
    context = RequestContext("r", {}, b"")
    for _ in range(2):
        await world.limits.count(Caller("team"), context)
    assert context.response_headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(TooManyRequests, match="3 requests a minute"):
        await world.limits.count(Caller("team"), RequestContext("r", {}, b""))
    for _ in range(5):
        await world.limits.count(Caller("other"), RequestContext("r", {}, b""))
