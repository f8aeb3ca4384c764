"""What was taken: counted once, kept once, told to whom it concerns, and written so that no spreadsheet runs it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from endpoint_entries import entry
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.request_steps import Asked, Caller, GatewayRequest, Place, TokenUsage
from pilotlight_gateway.usage.prices import Price, PriceTable
from pilotlight_gateway.usage.slot_time_watch import SlotTimeNews
from pilotlight_gateway.usage.sqlite_usage import FILE_NAME, SqliteUsage
from pilotlight_gateway.usage.usage_api import UsageApi
from pilotlight_gateway.usage.usage_book import DAY_S, UsageBook
from pilotlight_gateway.usage.usage_report import UsageQuestion, csv_of, read_question
from pilotlight_gateway.usage.usage_rows import Amounts, Counted, UsageKey
from pilotlight_protocol.errors import Forbidden, InvalidInput, Unavailable
from pilotlight_protocol.leases import SlotTime, SlotTimesAnswer
from pilotlight_wire.handlers import Reply, RequestContext

START_S = 20_785 * DAY_S + 5.0
TODAY = "2026-11-28"
PRICES = PriceTable(default=Price(Decimal(1), Decimal("0.5"), Decimal(2), Decimal("0.1")))
ADMIN = Caller("ops", role="admin")


class World:
    """A book over a real file. `fails`: so many writes do. `gate`: a write waits for it."""

    def __init__(self, folder: Path) -> None:
        self.now_s = START_S
        self.prices = PRICES
        self.fails = 0
        self.sqlite = SqliteUsage(folder / FILE_NAME)
        self.book = UsageBook(self, lambda: self.prices, lambda: self.now_s)
        self.api = UsageApi(self.book, lambda: self.prices, lambda: self.now_s)

    def add(self, counted: Counted) -> None:
        if self.fails:
            self.fails -= 1
            raise Unavailable("the disk is full")
        self.sqlite.add(counted)

    def totals(
        self, columns: Sequence[str], first_day: int, last_day: int, tenant: str | None, endpoint: str | None, most: int
    ) -> list[tuple[tuple[str | int, ...], Amounts]]:
        return self.sqlite.totals(columns, first_day, last_day, tenant, endpoint, most)

    def close(self) -> None:
        return

    def took(self, prompt: int, cached: int, output: int, tenant: str = "team", **more: Any) -> None:
        told = {"status": 200, "endpoint": "chat", "model": "chat", "method": "POST", **more}
        request = GatewayRequest(
            RequestContext("r", {}),
            Place(told["method"], "/", "/", "/", "/", None),
            Asked(told["model"]),
            Caller(tenant),
            entry(told["endpoint"]),
            told["model"],
            TokenUsage(prompt, output, cached),
        )
        self.book.ended(request, told["status"])

    async def ask(self, caller: Caller, query: str = "", **headers: str) -> Reply:
        context = RequestContext("r", headers)
        context.query_string = query.encode()
        (route,) = self.api.routes()
        reply = await route.handler(context, caller)
        assert isinstance(reply, Reply)
        return reply

    async def told(self, caller: Caller, query: str = "") -> Any:
        return json.loads((await self.ask(caller, query)).body)


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    return World(tmp_path)


async def test_every_token_is_counted_once_and_priced_as_of_then(world: World) -> None:
    world.took(10, 4, 5)
    world.took(1, 0, 1)
    await world.book.flush()
    world.prices = PriceTable(default=Price(Decimal(100)))
    world.took(1, 0, 0)
    world.book.held_slot("team", "chat", "chat", 1500)
    told = await world.told(Caller("team"))
    assert told["by"] == ["endpoint", "day"]
    (line,) = told["usage"]
    assert line == {
        "endpoint": "team/chat",
        "day": TODAY,
        "requests": 3,
        "prompt_tokens": 12,
        "cached_tokens": 4,
        "output_tokens": 6,
        "slot_seconds": 1.5,
        "cost": "0.000121",
    }
    assert (told["from"], told["to"], told["currency"]) == ("2026-11-01", TODAY, "USD")


async def test_what_took_nothing_is_not_counted(world: World) -> None:
    world.took(0, 0, 0, status=400)
    world.took(0, 0, 0, method="GET")
    world.took(3, 0, 2, status=499)
    told = await world.told(Caller("team"))
    assert (told["total"]["requests"], told["total"]["prompt_tokens"]) == (1, 3)


async def test_a_tenant_is_told_of_its_own_and_an_admin_of_everybodys(world: World) -> None:
    for tenant in ("team", "other"):
        world.took(1, 0, 1, tenant)
    for query in ("", "tenant=team", "endpoint=chat", "by=tenant,model"):
        assert (await world.told(Caller("team"), query))["total"]["requests"] == 1
    for query in ("tenant=other", "tenant=", "tenant=nobody"):
        with pytest.raises(Forbidden):
            await world.ask(Caller("team"), query)
    assert [line["tenant"] for line in (await world.told(ADMIN))["usage"]] == ["other", "team"]
    assert (await world.told(ADMIN, "tenant=other"))["total"]["requests"] == 1
    assert (await world.told(ADMIN, "endpoint=team/chat&by="))["usage"][0]["requests"] == 2
    assert (await world.told(Caller("nobody"), "by="))["usage"] == []


async def test_a_day_ends_at_midnight_of_utc(world: World) -> None:
    world.took(1, 0, 1)
    world.now_s += DAY_S - 6.0
    world.took(1, 0, 1)
    world.now_s += 2.0
    world.took(1, 0, 1)
    told = await world.told(Caller("team"), "by=day")
    assert [(line["day"], line["requests"]) for line in told["usage"]] == [(TODAY, 2), ("2026-11-29", 1)]
    assert (await world.told(Caller("team"), "from=2026-11-29&to=2026-11-29"))["total"]["requests"] == 1


async def test_a_store_that_fails_loses_nothing_and_doubles_nothing(world: World) -> None:
    world.fails = 2
    world.took(1, 0, 1)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await world.book.flush()
        world.took(1, 0, 1)
    assert (await world.told(Caller("team")))["total"]["requests"] == 3
    world.took(1, 0, 1)
    await world.book.close()
    assert world.sqlite.totals([], 0, 99_999, None, None, 9)[0][1].requests == 4


async def test_who_leaves_while_it_is_written_takes_nothing_along(world: World) -> None:
    for number in range(20):
        world.took(1, 0, 1)
        asking = asyncio.create_task(world.ask(Caller("team")))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
    assert (await world.told(Caller("team")))["total"]["requests"] == 20


async def test_what_is_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.took(1, 0, 1)
    await world.book.flush()
    world.sqlite.close()
    again = World(tmp_path)
    again.took(1, 0, 1)
    assert (await again.told(Caller("team")))["total"]["requests"] == 2
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-13-01"}, "to"),
        ({"from": "2026-11-29", "to": "2026-11-28"}, "from"),
        ({"from": "2020-01-01"}, "from"),
        ({"by": "day,key"}, "by"),
        ({"by": "day,day"}, "by"),
        ({"by": "cost) FROM usage; --"}, "by"),
    ],
)
def test_a_question_that_is_none_names_what_is_wrong(query: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_question(query, date(2026, 11, 28), "team")
    assert refused.value.param == param


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=5))
def test_a_spreadsheet_runs_nothing_of_a_csv(names: list[tuple[str, str]]) -> None:
    question = UsageQuestion(date(2026, 11, 1), date(2026, 11, 2), ("endpoint", "model"))
    written = csv_of(question, [(pair, Amounts(1, 2, 3, 4, 5, 6)) for pair in names], "USD")
    lines = list(csv.reader(io.StringIO(written, newline="")))[1:]
    assert len(lines) == len(names)
    for line, pair in zip(lines, names, strict=True):
        for cell, name in zip(line, pair, strict=False):
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
            assert cell in (name, f"'{name}")
        assert line[2:4] == ["1", "2"]


async def test_csv_is_for_who_asks_for_it(world: World) -> None:
    world.took(1, 0, 1, model="=cmd|' /C calc'!A0")
    reply = await world.ask(Caller("team"), "by=model", accept="text/csv")
    assert reply.content_type.startswith("text/csv")
    assert reply.body.decode().splitlines()[1].startswith("'=cmd")


TIMES = st.lists(
    st.tuples(st.sampled_from(["e1", "e2"]), st.dictionaries(st.sampled_from("ab"), st.integers(0, 9))), max_size=12
)


def answers(epoch: str, seconds: dict[str, int]) -> SlotTimesAnswer:
    return SlotTimesAnswer(epoch, tuple(SlotTime("team", name, float(slot_s)) for name, slot_s in seconds.items()))


@given(TIMES)
def test_slot_time_is_booked_once(changes: Any) -> None:
    news, epoch, now = SlotTimeNews(), "", {"a": 0, "b": 0}
    booked, wanted = {"a": 0, "b": 0}, {"a": 0, "b": 0}
    for next_epoch, more in changes:
        if next_epoch != epoch:
            epoch, now = next_epoch, {"a": 0, "b": 0}
        for name, seconds in more.items():
            now[name] += seconds
            wanted[name] += seconds * 1000
        for _, name, slot_ms in news.of(answers(epoch, now)):
            booked[name] += slot_ms
    assert booked == wanted


def keys() -> Iterator[UsageKey]:
    for day in (1, 2):
        for tenant in ("a", "b"):
            yield UsageKey(day, tenant, f"{tenant}/x", "m")


def test_totals_are_grouped_by_what_was_asked_for(tmp_path: Path) -> None:
    store = SqliteUsage(tmp_path / FILE_NAME)
    for _ in range(2):
        store.add({key: Amounts(1, 2, 1, 3, 4, 5) for key in keys()})
    assert store.totals(["tenant"], 1, 2, None, None, 9) == [
        (("a",), Amounts(4, 8, 4, 12, 16, 20)),
        (("b",), Amounts(4, 8, 4, 12, 16, 20)),
    ]
    assert [group for group, _ in store.totals(["day", "endpoint"], 2, 2, "b", None, 9)] == [(2, "b/x")]
    assert store.totals([], 1, 2, "c", None, 9) == []
    assert len(store.totals(["day", "tenant"], 1, 2, None, None, 3)) == 3
