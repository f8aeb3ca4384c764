"""How long the sender of a request waits for its answer to begin: said by itself, kept here, and told on as what is
left of it.

A header says seconds, gRPC a deadline; both are a time that passes while the request does. Each hop that is told keeps
it, also where nobody tells it that its client has gone. What has begun to be answered may take longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from pilotlight_protocol.errors import DeadlineExceeded
from pilotlight_wire.handlers import RequestContext
from pilotlight_wire.hop_headers import LONGEST_WAIT_S, TIMEOUT_HEADER, forwarded_headers, told_seconds, waits_s


def keep_time(context: RequestContext, most_s: float | None = None) -> None:
    """From now on its sender waits as long as its header says, and `most_s` at most."""
    said_s = None if TIMEOUT_HEADER not in context.headers else waits_s(context.headers)
    given = [each for each in (said_s, most_s) if each is not None and each <= LONGEST_WAIT_S]
    if given:
        ends_s = time.monotonic() + min(given)
        context.ends_s = ends_s if context.ends_s is None else min(ends_s, context.ends_s)


def left_s(context: RequestContext) -> float | None:
    """None where nobody says how long it waits."""
    return None if context.ends_s is None else context.ends_s - time.monotonic()


def passed_on(context: RequestContext) -> dict[str, str]:
    """The headers that the next hop gets of a request, and what is left of its time."""
    headers = forwarded_headers(context.headers)
    left = left_s(context)
    if left is not None:
        headers[TIMEOUT_HEADER] = told_seconds(left)
    return headers


def too_late(context: RequestContext) -> DeadlineExceeded:
    said_s = waits_s(context.headers)
    within = "the call's own deadline" if said_s is None else f"the {said_s:g} s of {TIMEOUT_HEADER}"
    return DeadlineExceeded(f"nothing came within {within}; its work was ended")


@contextlib.asynccontextmanager
async def in_senders_time(context: RequestContext) -> AsyncIterator[asyncio.Timeout]:
    """Raises DeadlineExceeded inside when the sender waits no longer, unless that is rescheduled."""
    try:
        async with asyncio.timeout(left_s(context)) as timeout:
            yield timeout
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise too_late(context) from error
