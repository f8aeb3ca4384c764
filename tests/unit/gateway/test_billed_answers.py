"""Over fallbacks and cascades the client is billed for the answer that it got: all of it, once, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from endpoint_entries import entry
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.cascade.cascade_spec import CascadeSpec
from pilotlight_gateway.metering import usage_now
from pilotlight_gateway.request_steps import (
    Asked,
    Caller,
    Cascade,
    Choice,
    GatewayRequest,
    Place,
    Routed,
    TokenUsage,
)
from pilotlight_gateway.routing.fallbacks import by_route
from pilotlight_gateway.usage.prices import PriceTable
from pilotlight_gateway.usage.usage_book import UsageBook
from pilotlight_gateway.usage.usage_rows import Counted, Total
from pilotlight_protocol.errors import InvalidInput, PilotlightError, Unavailable
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import Reply, RequestContext, Stream

CHAT = "/v1/chat/completions"
Fate = Literal["good", "doubtful", "503", "dies", "refuses", "streams", "streams doubts", "breaks", "breaks late"]
FATES = st.sampled_from(Fate.__args__)  # type: ignore[attr-defined]
ATTEMPTS = st.tuples(FATES, st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
SPEC = CascadeSpec(first=("a/small",), mean_logprob_below=-1.0, hold_tokens=2)


class Store:
    def __init__(self) -> None:
        self.added: list[Counted] = []

    def add(self, counted: Counted) -> None:
        self.added.append(counted)

    def totals(
        self, columns: Sequence[str], first_day: int, last_day: int, tenant: str | None, endpoint: str | None, most: int
    ) -> list[Total]:
        return []

    def close(self) -> None:
        return


class World:
    """`script`: what becomes of each attempt: its fate, and the tokens that it takes."""

    def __init__(self, script: list[tuple[Fate, int, int, int]], first: int, own: int) -> None:
        self.script = script
        self.took: dict[str, TokenUsage] = {}
        self.last = ""
        names = [f"e{number}" for number in range(first + own)]
        choices = [Choice(entry(name), name, "target", place) for place, name in enumerate(names)]
        place = Place("POST", CHAT, CHAT, CHAT, CHAT, None)
        context = RequestContext("r", {}, b'{"model": "smart"}')
        self.request = GatewayRequest(context, place, Asked("smart"), Caller("team"), choices[0].entry, names[0])
        cascade = Cascade(SPEC, tuple(choices[:first])) if first else None
        self.routed = Routed("smart", "", tuple(choices[first:]), place, cascade)

    async def run(self) -> tuple[str, Counted]:
        """Who answered, "" for nobody; and what was booked."""
        store = Store()
        book = UsageBook(store, PriceTable)
        answered, status = "", 200
        try:
            result = await by_route(self.request, self.routed, self._attempt)
            if isinstance(result, Stream):
                try:
                    async for piece in result.events:
                        answered = json.loads(piece[6:])["who"]
                finally:
                    await close_events(result.events)
            else:
                status, answered = result.status, json.loads(result.body)["who"]
        except PilotlightError as error:
            status = error.http_status
        book.ended(self.request, status)
        await book.close()
        return answered, store.added[0] if store.added else {}

    async def _attempt(self, request: GatewayRequest) -> Reply | Stream:
        fate, prompt, output, cached = self.script[len(self.took)]
        name = self.last = request.entry.name
        usage = self.took[name] = usage_now()
        usage.prompt_tokens += prompt
        usage.cached_tokens += min(cached, prompt)
        logprob = -9.0 if "doubt" in fate else -0.1
        choice = {
            "message": {"content": "a"},
            "delta": {"content": "a"},
            "logprobs": {"content": [{"logprob": logprob}]},
        }
        body = json.dumps({"who": name, "choices": [{"index": 0, **choice}]}).encode()
        if fate.startswith(("streams", "breaks")):
            return Stream(self._events(body, usage, output, breaks_at={"breaks": 1, "breaks late": 3}.get(fate)))
        usage.output_tokens += output
        if fate == "dies":
            raise Unavailable("died")
        if fate == "refuses":
            raise InvalidInput("no")
        return Reply(body, 503 if fate == "503" else 200)

    async def _events(self, body: bytes, usage: TokenUsage, output: int, breaks_at: int | None) -> AsyncIterator[bytes]:
        for number in range(4):
            if number == breaks_at:
                raise Unavailable("broke")
            usage.output_tokens += output
            yield b"data: " + body


@given(st.lists(ATTEMPTS, min_size=5, max_size=5), st.integers(0, 2), st.integers(1, 3))
def test_the_answer_is_billed_and_nothing_else(script: list[tuple[Fate, int, int, int]], first: int, own: int) -> None:
    world = World(script, first, own)
    who, booked = asyncio.run(world.run())
    billed = world.took[who or world.last]
    assert world.request.usage == billed
    assert {key.endpoint for key in booked} <= {f"team/{who or world.last}"}
    for amounts in booked.values():
        assert min(amounts.prompt_tokens, amounts.cached_tokens, amounts.output_tokens, amounts.cost) >= 0
    total = sum((amounts.prompt_tokens + amounts.output_tokens for amounts in booked.values()), 0)
    assert total == billed.total
    assert sum(amounts.requests for amounts in booked.values()) == bool(booked)
