"""An answer that this replica makes, told to the others while it comes: that it is made, its beginning before anybody
sees any of it, what there is of it some times a second, and its end."""

from __future__ import annotations

import asyncio
import contextlib

from pilotlight_gateway.idempotency import shared_answers
from pilotlight_gateway.idempotency.kept_answer import FIRST_FAILURE, KeptAnswer
from pilotlight_gateway.idempotency.shared_answers import Head, OwnedAnswer
from pilotlight_gateway.request_steps import Run
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import Reply, RequestContext

TELL_S = 0.05


async def told_while_made(owned: OwnedAnswer, answer: KeptAnswer, run: Run, context: RequestContext) -> None:
    """As `answer.take` with what `run` answers. Raises Unavailable where another replica makes it by now."""
    telling = asyncio.create_task(_tell(owned, answer), name="telling a named answer")
    try:
        result = await run()
        headers, phases_ms = dict(context.response_headers), dict(context.server_timing)
        if not isinstance(result, Reply):
            try:
                await owned.begin(Head(result.content_type, headers, phases_ms))
            except BaseException:
                await close_events(result.events)
                raise
        elif result.status < FIRST_FAILURE:
            head = Head(result.content_type, headers, phases_ms, result.status, dict(result.headers))
            await owned.begin(head, [result.body], finished=True)
        await answer.take(result, context)
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling


async def end_told(owned: OwnedAnswer, answer: KeptAnswer, *, failed: bool) -> None:
    """What failed is forgotten: a later one tries again."""
    if failed or answer.failed:
        await owned.forget()
    elif answer.is_stream:
        await owned.tell(answer.events_from, finished=True)


async def _tell(owned: OwnedAnswer, answer: KeptAnswer) -> None:
    """Ends when it is cancelled."""
    loop = asyncio.get_running_loop()
    told_s = loop.time()
    while True:
        await asyncio.sleep(TELL_S)
        is_due = loop.time() - told_s > shared_answers.LEASE_S / 3
        events = answer.events_from(owned.told)
        if is_due or events is None or events:
            await owned.tell(answer.events_from)
            told_s = loop.time()
