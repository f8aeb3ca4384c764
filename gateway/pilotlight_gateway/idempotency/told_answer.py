"""An answer that this replica makes, told to the others while it comes: that it is made, its beginning and its events
before anybody sees them, and its end. Where Redis is away, it is shown all the same, and told when that is back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from pilotlight_gateway.idempotency import redis_answers
from pilotlight_gateway.idempotency.answer_elsewhere import BROKEN
from pilotlight_gateway.idempotency.kept_answer import FIRST_FAILURE, KeptAnswer
from pilotlight_gateway.idempotency.owned_answer import OwnedAnswer, taken_over
from pilotlight_gateway.idempotency.redis_answers import Head
from pilotlight_gateway.redis_calls import RedisAway
from pilotlight_gateway.request_steps import GatewayRequest, Run
from pilotlight_gateway.stream_record import NobodyGoesOn
from pilotlight_serving.http_app import close_events
from pilotlight_wire.handlers import Reply, Stream

TELL_S = 0.02
"""Between two tellings of one stream: what comes meanwhile goes together, and with that of all other streams."""
MOST_TRIES = 3
"""Of telling where this process may have stood still: whoever took its answer meanwhile can say so by then."""
SHOWN_WITHIN_S = 0.25
"""However long Redis takes to keep it."""


async def told_while_made(
    owned: OwnedAnswer, answer: KeptAnswer, run: Run, request: GatewayRequest, taken: Callable[[], None]
) -> None:
    """As `answer.take` with what `run` answers. Raises Unavailable where another replica makes it by now; `taken` is
    called before this one's work ends then."""
    making = asyncio.current_task()
    assert making is not None

    def lost() -> None:
        taken()
        making.cancel()

    async def finish() -> None:
        """Whose answer is another's by now has nothing to bill, and nothing more to show."""
        for _ in range(MOST_TRIES):
            with contextlib.suppress(RedisAway):
                await owned.tell(answer.news, finished=True)
                break
            if owned.is_mine_alone:
                break
        if owned.is_taken:
            taken()
            raise taken_over()

    owned.record = request.record
    answer.show(owned.told)
    telling = asyncio.create_task(_tell(owned, answer, lost), name="telling a named answer")
    try:
        result = await run()
        await _begin(owned, result, request)
        await answer.take(result, request.context, finish)
    except asyncio.CancelledError:
        if owned.is_taken and making.uncancel() == 0:
            raise taken_over() from None
        raise
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling


async def _begin(owned: OwnedAnswer, result: Reply | Stream, request: GatewayRequest) -> None:
    headers, phases_ms = dict(request.context.response_headers), dict(request.context.server_timing)
    if isinstance(result, Reply):
        if owned.left_off is not None:
            raise NobodyGoesOn(BROKEN)
        if result.status < FIRST_FAILURE:
            head = Head(result.content_type, headers, phases_ms, result.status, dict(result.headers))
            await owned.begin(head, result.body)
    elif owned.left_off is None:
        try:
            await owned.begin(Head(result.content_type, headers, phases_ms))
        except BaseException:
            await close_events(result.events)
            raise


async def end_told(owned: OwnedAnswer, answer: KeptAnswer, *, failed: bool, is_left: bool) -> None:
    """What failed is forgotten: a later one tries again. `is_left`: this replica ends before it."""
    try:
        if is_left and answer.is_stream:
            with contextlib.suppress(RedisAway):
                await owned.tell(answer.news)
            await owned.leave()
        elif failed or answer.failed:
            await owned.forget()
    finally:
        answer.show(None)


async def _tell(owned: OwnedAnswer, answer: KeptAnswer, lost: Callable[[], None]) -> None:
    """Ends when it is cancelled, or there is nothing more to tell."""
    loop, failures = asyncio.get_running_loop(), 0

    def show() -> None:
        """What is not kept, too. It may be another's already where this process stood still."""
        if owned.is_mine_alone or failures >= MOST_TRIES:
            answer.show(None)

    while owned.is_shared:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(redis_answers.LEASE_S / 3):
                await answer.news_behind(owned.told)
        late = loop.call_later(SHOWN_WITHIN_S, show)
        try:
            await owned.tell(answer.news)
            answer.show(owned.told)
            failures = 0
        except RedisAway:
            failures += 1
            show()
        finally:
            late.cancel()
        if owned.is_taken:
            lost()
            return
        await asyncio.sleep(TELL_S - loop.time() % TELL_S)
    answer.show(None)
