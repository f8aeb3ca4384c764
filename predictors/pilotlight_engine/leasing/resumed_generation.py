"""One request's tokens over as many engines as it takes: what one engine delivered, the next one continues.

Nothing is passed on twice and nothing is left out; what cannot be continued ends with Unavailable (`resume` decides).
Closing the iterator aborts whatever runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Sequence

from pilotlight_engine.contract import DeltaStream, Engine, GenerateRequest, PooledVector, PoolRequest
from pilotlight_engine.leasing import resume
from pilotlight_engine.leasing.engine_holder import EngineHolder
from pilotlight_engine.leasing.lease_errors import ServedElsewhere
from pilotlight_engine.leasing.metrics import RESUMES
from pilotlight_engine.leasing.resume import CannotResume, Delivered, Part, ResumeLimits
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import TokenDelta
from pilotlight_wire.handlers import RequestContext
from pilotlight_wire.hop_headers import ELSEWHERE

LEASE_HEADER = "x-pilotlight-lease"
# What is worth a bar of its own; queueing and the rest are in `lease`.
_TOLD_PHASES = ("prefetch", "stop", "fork", "boot", "swap")
# A request may hear of the loss of its engine before the engine's owner does.
_LOSS_NEWS_S = 2.0

_Deltas = AsyncGenerator[list[TokenDelta], None]
_log = logging.getLogger("pilotlight.engine")


class Generator:
    """Runs requests on the engine that `holder` holds at the time."""

    def __init__(self, holder: EngineHolder, limits: ResumeLimits) -> None:
        self._holder = holder
        self._limits = limits

    async def generate(self, request: GenerateRequest, context: RequestContext) -> _Deltas:
        """As `contract.Engine.generate`, over losses.

        Tells `context` the phases `lease`, its parts, `queue` (until the engine's scheduler picks it) and `prefill`.
        """
        with self._holder.work():
            engine = await self._first_engine(context)
            parts = [Part(request, None)]
            delivered = [Delivered() for _ in range(request.parameters.n)]
            resumes, started_at, content = 0, time.perf_counter(), self._holder.content
            while True:
                try:
                    async with contextlib.aclosing(_tokens(engine, parts, request, delivered)) as stream:
                        async for deltas in stream:
                            aborted = book(deltas, delivered)
                            if "prefill" not in context.server_timing:
                                _tell_first_token(context, deltas, time.perf_counter() - started_at)
                            if resumes and all(choice.finished for choice in delivered):
                                # Not behind the loop: who has read the last tokens asks for no more, and closes this.
                                RESUMES.labels("resumed").inc()
                            yield deltas
                            if aborted:
                                raise Unavailable("the engine stopped the request before its end")
                    break
                except Unavailable as lost:
                    resumes += 1
                    parts = self._parts_after(lost, request, delivered, engine, resumes)
                    engine = await self._next_engine(engine, lost)
                    content = self._checked_content(content, parts, lost)

    async def pool(self, request: PoolRequest, context: RequestContext) -> PooledVector:
        """As `contract.Engine.pool`, over losses: what was lost is asked again, for nothing of it was delivered.

        Tells `context` the phases `lease`, its parts, and `prefill`: of several rows the slowest one's.
        """
        with self._holder.work():
            engine = await self._first_engine(context)
            resumes, started_at = 0, time.perf_counter()
            while True:
                try:
                    vector = await engine.pool(request)
                except Unavailable as lost:
                    resumes += 1
                    self._check_resumes(resumes, lost)
                    engine = await self._next_engine(engine, lost)
                    continue
                took_ms = (time.perf_counter() - started_at) * 1000
                context.server_timing["prefill"] = max(took_ms, context.server_timing.get("prefill", 0.0))
                if resumes:
                    RESUMES.labels("resumed").inc()
                return vector

    async def _first_engine(self, context: RequestContext) -> Engine:
        asked_at = time.perf_counter()
        must_wait = not self._holder.held
        may_move = ELSEWHERE in context.headers
        try:
            engine = await self._holder.engine(self._holder.first_wait_s, may_move=may_move)
        except ServedElsewhere:
            if may_move:
                context.response_headers[ELSEWHERE] = "1"
            raise
        waited_s = time.perf_counter() - asked_at
        lease = self._holder.take_news()
        if lease is None:
            if must_wait:
                context.server_timing["lease"] = waited_s * 1000
            return engine
        spent = [f"{name}={seconds:.4f}" for name, seconds in lease.phases_s.items() if seconds > 0]
        context.response_headers[LEASE_HEADER] = "; ".join([f"path={lease.path}", *spent])
        if must_wait:
            # Server-Timing has no start times: the phases must add up to what the client waited.
            phases = {name: lease.phases_s[name] for name in _TOLD_PHASES if lease.phases_s.get(name, 0) > 0}
            context.server_timing["lease"] = max(0.0, waited_s - sum(phases.values())) * 1000
            for name, seconds in phases.items():
                context.server_timing[name] = seconds * 1000
        return engine

    def _parts_after(
        self,
        lost: Unavailable,
        request: GenerateRequest,
        delivered: Sequence[Delivered],
        engine: Engine,
        resumes: int,
    ) -> list[Part]:
        self._check_resumes(resumes, lost)
        rest = resume.rest_of(request, delivered, engine.info.default_max_tokens, resumes)
        if isinstance(rest, CannotResume):
            RESUMES.labels("impossible").inc()
            raise Unavailable(f"the engine was lost {rest.reason} ({lost.message})") from lost
        return rest

    def _checked_content(self, begun: str, parts: Sequence[Part], lost: Unavailable) -> str:
        """What the next engine answers with: the same, where it is to continue what another one said."""
        found = self._holder.content
        if found != begun and any(part.choice is not None for part in parts):
            RESUMES.labels("impossible").inc()
            raise Unavailable(
                f"the engine was lost, and the model has changed meanwhile; send it again ({lost.message})"
            ) from lost
        return found

    def _check_resumes(self, resumes: int, lost: Unavailable) -> None:
        if resumes > self._limits.max_resumes:
            RESUMES.labels("given_up").inc()
            raise Unavailable(f"{lost.message} (given up after {resumes - 1} resumes)", retry_after_s=5) from lost

    async def _next_engine(self, lost: Engine, why: Unavailable) -> Engine:
        await asyncio.wait({lost.lost}, timeout=_LOSS_NEWS_S)
        try:
            engine = await self._holder.engine(self._limits.deadline_s)
        except Unavailable as error:
            RESUMES.labels("given_up").inc()
            raise Unavailable(
                f"{why.message}; no other engine: {error.message}", retry_after_s=error.retry_after_s
            ) from error
        _log.info("a request goes on with another engine")
        return engine


def _tell_first_token(context: RequestContext, deltas: Sequence[TokenDelta], waited_s: float) -> None:
    """Part what the first token took, as seen here, into what came before the engine worked on it and its work."""
    prefill_s = max(delta.prefill_s for delta in deltas)
    if prefill_s < 0:
        context.server_timing["prefill"] = waited_s * 1000
        return
    prefill_s = min(prefill_s, waited_s)
    context.server_timing["queue"] = (waited_s - prefill_s) * 1000
    context.server_timing["prefill"] = prefill_s * 1000


def book(deltas: Sequence[TokenDelta], delivered: Sequence[Delivered]) -> bool:
    """Book what goes to the client. Returns whether the engine stopped before the request's end."""
    aborted = False
    for delta in deltas:
        if delta.finish_reason == "abort":
            # Nobody here asked for that: the lease was taken away or the engine is ending.
            delta.finish_reason, aborted = None, True
        choice = delivered[delta.index]
        choice.token_ids += delta.token_ids
        choice.finished = delta.finish_reason is not None
        choice.opened = choice.opened or delta.prompt_tokens >= 0
    return aborted


def _tokens(
    engine: Engine, parts: Sequence[Part], request: GenerateRequest, delivered: Sequence[Delivered]
) -> DeltaStream:
    """The parts' deltas as the request's own: a whole request's are the engine's, with no generator in between."""
    if parts and parts[0].choice is None:
        return engine.generate(parts[0].request)
    return _continued(engine, parts, request, delivered)


async def _continued(
    engine: Engine, parts: Sequence[Part], request: GenerateRequest, delivered: Sequence[Delivered]
) -> _Deltas:
    if len(parts) == 1:
        async with contextlib.aclosing(engine.generate(parts[0].request)) as stream:
            async for news in stream:
                yield _as_original(news, parts[0], request, delivered)
        return
    async with contextlib.AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(contextlib.aclosing(engine.generate(part.request))) for part in parts
        ]
        waiting = {asyncio.create_task(_next(stream)): number for number, stream in enumerate(streams)}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                # What came before a loss is delivered before the loss is told.
                for task in sorted(done, key=lambda task: task.exception() is not None):
                    number, more = waiting.pop(task), task.result()
                    if more is not None:
                        yield _as_original(more, parts[number], request, delivered)
                        waiting[asyncio.create_task(_next(streams[number]))] = number
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


def _as_original(
    deltas: Sequence[TokenDelta], part: Part, request: GenerateRequest, delivered: Sequence[Delivered]
) -> list[TokenDelta]:
    return [resume.as_original(delta, part, request, delivered[0].opened) for delta in deltas]


async def _next(stream: DeltaStream) -> list[TokenDelta] | None:
    return await anext(stream, None)
