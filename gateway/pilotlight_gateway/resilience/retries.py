"""Whether a request that failed before its first byte is sent again, when, and out of which budget. Pure.

    nothing of it has left (no connection)          again, whatever it is
    the connection broke, or nothing came           again, if running it twice does no harm
    502, 504, 503 without a time                    the same
    503 with a time (`Retry-After`)                 elsewhere at once, else after that time where it is short
    500                                             elsewhere only: at the same place a bug is the same bug
    anything else                                   is the answer

A retry costs one of the budget, which gets a share of every request and a little by time: when everything fails,
retries add that share to the load and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["no_connection", "broken", "status"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """`longest_wait_s`: a server that asks for more patience than that is believed, and its answer passed on."""

    max_retries: int = 3
    first_backoff_s: float = 0.05
    longest_backoff_s: float = 1.0
    longest_wait_s: float = 2.0
    budget_share: float = 0.2
    budget_per_s: float = 1.0
    budget_most: float = 20.0


@dataclass(frozen=True, slots=True)
class Failure:
    """`status`, `retry_after_s`: of an answer."""

    kind: Kind
    status: int = 0
    retry_after_s: float | None = None

    @property
    def may_have_run(self) -> bool:
        return self.kind != "no_connection"


@dataclass(frozen=True, slots=True)
class Situation:
    """`retries`: done already. `left_s`: of the request's time. `elsewhere`: another upstream takes requests now."""

    retries: int
    repeatable: bool
    elsewhere: bool
    left_s: float


def backoff_s(failure: Failure, situation: Situation, settings: RetrySettings, jitter: float) -> float | None:
    """How long to wait before the next try, None: there is none. `jitter`: from 0 to 1, at random."""
    if situation.retries >= settings.max_retries or (failure.may_have_run and not situation.repeatable):
        return None
    if failure.kind == "status" and (failure.status not in (500, 502, 503, 504)):
        return None
    if failure.kind == "status" and failure.status == 500 and not situation.elsewhere:
        return None
    if situation.elsewhere:
        wait_s = 0.0
    elif failure.retry_after_s is not None:
        if failure.retry_after_s > settings.longest_wait_s:
            return None
        wait_s = failure.retry_after_s * (1 + 0.1 * jitter)
    else:
        ceiling_s = min(settings.longest_backoff_s, settings.first_backoff_s * 2**situation.retries)
        wait_s = ceiling_s * (0.5 + 0.5 * jitter)
    return wait_s if wait_s < situation.left_s else None


class RetryBudget:
    """Shared by all requests to one endpoint."""

    def __init__(self, settings: RetrySettings, now_s: float) -> None:
        self._settings = settings
        self._balance = settings.budget_most / 2
        self._as_of_s = now_s

    def earn(self, now_s: float) -> None:
        """A request came."""
        self._accrue(now_s, self._settings.budget_share)

    def spend(self, now_s: float) -> bool:
        """Whether there is one retry left; it is taken."""
        self._accrue(now_s, 0.0)
        if self._balance < 1:
            return False
        self._balance -= 1
        return True

    def _accrue(self, now_s: float, more: float) -> None:
        earned = (now_s - self._as_of_s) * self._settings.budget_per_s + more
        self._balance = min(self._settings.budget_most, self._balance + earned)
        self._as_of_s = now_s


_GENERATING = (
    "/completions",
    "/messages",
    "/count_tokens",
    "/embeddings",
    "/rerank",
    "/score",
    "/tokenize",
    "/detokenize",
    "/generate",
    "/generate_stream",
    "/infer",
    "/index",
    "/render",
    "/derender",
)


def is_repeatable(method: str, path: str) -> bool:
    """Whether running it twice does no more than running it once (RFC 9110 section 9.2.2), as generating text does.

    `/responses` keeps what it answered, under an id that nobody has been told; `/v2/repository` loads models.
    """
    if method != "POST":
        return method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
    return path.partition("?")[0].rstrip("/").endswith((*_GENERATING, "/responses"))
