"""What is limited, what a request asks for, and what it is told. Pure.

`requests_per_minute` and `tokens_per_minute` hold for any 60 seconds, counted in whole ones. Tokens are those of the
prompt and all that was generated. Days and months are UTC's.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

WINDOW_S = 60
Bound = Annotated[int, msgspec.Meta(ge=1)] | None
Spent = Literal["requests_per_minute", "tokens_per_minute", "concurrency", "tokens_per_day", "tokens_per_month"]


class LimitTerms(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """None: not limited. `concurrency`: requests that run at once."""

    requests_per_minute: Bound = None
    tokens_per_minute: Bound = None
    concurrency: Bound = None
    tokens_per_day: Bound = None
    tokens_per_month: Bound = None


UNLIMITED = LimitTerms()


class Standing(msgspec.Struct, frozen=True):
    """How much of a minute's limits is taken, and in how many seconds nothing of it will be."""

    requests: int = 0
    tokens: int = 0
    requests_reset_s: float = 0.0
    tokens_reset_s: float = 0.0


class Granted(msgspec.Struct, frozen=True):
    standing: Standing


class Refused(msgspec.Struct, frozen=True):
    """`spent`: which limit; `retry_after_s`: when this request would fit, if nobody asks before."""

    spent: Spent
    retry_after_s: float
    standing: Standing


def rate_limit_headers(terms: LimitTerms, standing: Standing) -> dict[str, str]:
    """OpenAI's, of those of its two limits that there are."""
    headers: dict[str, str] = {}
    if terms.requests_per_minute is not None:
        headers["x-ratelimit-limit-requests"] = str(terms.requests_per_minute)
        headers["x-ratelimit-remaining-requests"] = str(max(0, terms.requests_per_minute - standing.requests))
        headers["x-ratelimit-reset-requests"] = shown_duration(standing.requests_reset_s)
    if terms.tokens_per_minute is not None:
        headers["x-ratelimit-limit-tokens"] = str(terms.tokens_per_minute)
        headers["x-ratelimit-remaining-tokens"] = str(max(0, terms.tokens_per_minute - standing.tokens))
        headers["x-ratelimit-reset-tokens"] = shown_duration(standing.tokens_reset_s)
    return headers


def shown_duration(seconds: float) -> str:
    """As OpenAI writes it: `20ms`, `1s`, `1m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"
