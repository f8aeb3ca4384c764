"""What things cost: exactly, whatever the price, and by the name that is meant most closely."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.usage.prices import PICOS, Price, PriceTable, shown_cost

TOKEN_PRICES = st.decimals(0, 1000, places=6)
COUNTS = st.integers(0, 10**9)


@given(TOKEN_PRICES, st.none() | TOKEN_PRICES, TOKEN_PRICES, COUNTS, COUNTS, COUNTS)
def test_tokens_cost_what_decimals_say(
    prompt: Decimal, cached: Decimal | None, output: Decimal, fresh: int, there: int, made: int
) -> None:
    rates = Price(prompt, cached, output).rates
    exact = (fresh * prompt + there * (prompt if cached is None else cached) + made * output) / 10**6
    assert Decimal(rates.of_tokens(fresh + there, there, made)) / PICOS == exact
    assert Decimal(shown_cost(rates.of_tokens(fresh + there, there, made))) == exact


@given(st.decimals(0, 10, places=9), COUNTS)
def test_slot_time_costs_what_decimals_say(price: Decimal, slot_ms: int) -> None:
    assert Decimal(slot_ms * Price(slot_second=price).rates.slot_ms) / PICOS == price * slot_ms / 1000


@pytest.mark.parametrize(
    ("picos", "shown"),
    [(0, "0.00"), (10**12, "1.00"), (15 * 10**11, "1.50"), (1, "0.000000000001")],
)
def test_a_cost_is_shown_exactly(picos: int, shown: str) -> None:
    assert shown_cost(picos) == shown


@pytest.mark.parametrize(
    "price",
    [
        {"prompt": "0.0000001"},
        {"prompt": -1},
        {"output": "NaN"},
        {"cached": "Infinity"},
        {"slot_second": "0.0000000001"},
        {"prompt": 10_000_000},
        {"promt": 1},
    ],
)
def test_a_price_that_is_none_is_refused_by_name(price: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(price))):
        msgspec.convert({"default": price}, PriceTable)


def test_numbers_of_yaml_are_what_was_written() -> None:
    assert msgspec.convert({"prompt": 0.15, "output": 0.6}, Price).rates.output == 600_000


def test_the_closest_name_has_the_price() -> None:
    names = ["team/tuned", "tuned", "team/chat", "chat"]
    for left in range(5):
        table = PriceTable(
            default=Price(Decimal(9)),
            models={name: Price(Decimal(number)) for number, name in enumerate(names[left:], left)},
        )
        assert table.price_of("team", "chat", "tuned").prompt == (left if left < 4 else 9)
