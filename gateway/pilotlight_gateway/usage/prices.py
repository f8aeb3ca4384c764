"""What things cost, in exact decimals: a section of the config file. Pure.

Everything is counted in whole picos (10^-12 of the currency), in which a price per million tokens with up to six
decimals, and one per slot-second with up to nine, has no remainder. A request costs what held when it ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

import msgspec

from pilotlight_gateway.configuration.section import Section

PICOS = 10**12
MILLION = 10**6
_MS_PER_S = 1000
_HIGHEST = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Rates:
    """Picos of a token of each kind, and of a slot's millisecond."""

    prompt: int = 0
    cached: int = 0
    output: int = 0
    slot_ms: int = 0

    def of_tokens(self, prompt: int, cached: int, output: int) -> int:
        return (prompt - cached) * self.prompt + cached * self.cached + output * self.output


def _check(name: str, price: Decimal | None, parts: int, decimals: int) -> None:
    if price is None:
        return
    if not price.is_finite() or not 0 <= price <= _HIGHEST:
        raise ValueError(f"the price '{name}' must be from 0 to {_HIGHEST}, was {price}")
    if (price * parts) % 1:
        raise ValueError(f"the price '{name}' can have {decimals} decimals, was {price}")


class Price(Section, frozen=True):
    """`prompt`, `cached` and `output`: of a million tokens; `cached` are those of the prompt that were there already,
    the prompt's price without one of their own. `slot_second`: of an engine slot that is held or made ready."""

    prompt: Decimal = Decimal(0)
    cached: Decimal | None = None
    output: Decimal = Decimal(0)
    slot_second: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        for name in ("prompt", "cached", "output"):
            _check(name, getattr(self, name), PICOS // MILLION, 6)
        _check("slot_second", self.slot_second, PICOS // _MS_PER_S, 9)

    @property
    def rates(self) -> Rates:
        cached = self.prompt if self.cached is None else self.cached
        per_token = PICOS // MILLION
        return Rates(
            int(self.prompt * per_token),
            int(cached * per_token),
            int(self.output * per_token),
            int(self.slot_second * (PICOS // _MS_PER_S)),
        )


class PriceTable(Section, frozen=True):
    """`models`: by `namespace/model`, `model`, `namespace/endpoint` or `endpoint`, of which the first that is there
    holds; `default` for all others."""

    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")] = "USD"
    default: Price = Price()
    models: dict[str, Price] = msgspec.field(default_factory=dict)

    def price_of(self, namespace: str, endpoint: str, model: str) -> Price:
        for name in (f"{namespace}/{model}", model, f"{namespace}/{endpoint}", endpoint):
            if name in self.models:
                return self.models[name]
        return self.default


def shown_cost(picos: int) -> str:
    """Exactly, in the currency: at least two decimals, and as many as it has."""
    whole, part = divmod(picos, PICOS)
    return f"{whole}.{f'{part:012d}'.rstrip('0').ljust(2, '0')}"
