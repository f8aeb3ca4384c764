"""The rest of an answer whose beginning another process made: asked from any source of tokens, choice by choice.

What can go on exactly, and from where, `pilotlight_engine.leasing.resume` decides, as it does for a lost engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from pilotlight_engine.leasing.resume import CannotResume, Delivered, Part, rest_of
from pilotlight_protocol.answer_record import Batch
from pilotlight_protocol.engine_frames import GenerateRequest
from pilotlight_protocol.errors import InvalidInput, Unavailable
from pilotlight_protocol.generation import TokenEvent
from pilotlight_text.token_source import TokenRequest, TokenSource, TokenStream
from pilotlight_wire.hop_headers import OUTPUT_TOKENS


class Rest:
    """Book what was told by `delivered`, in its order; the first `events` asks for what comes after that."""

    def __init__(self, source: TokenSource, request: TokenRequest) -> None:
        self._source = source
        self._request = request
        self._delivered = [Delivered() for _ in range(request.parameters.n)]
        self._parts: list[Part] | None = None
        self._streams: list[TokenStream] = []
        self._next: dict[asyncio.Task[Batch], int] = {}

    def delivered(self, batch: Batch) -> Batch:
        """The same; an engine that gave up has ended nothing."""
        for event in batch:
            if not 0 <= event.index < len(self._delivered):
                raise InvalidInput("what was told of the answer has a choice that was not asked for")
            if event.finish_reason == "abort":
                event.finish_reason = None
            choice = self._delivered[event.index]
            choice.token_ids += event.output_ids
            choice.finished = choice.finished or event.finish_reason is not None
            choice.opened = choice.opened or event.prompt_tokens is not None
        return batch

    async def events(self) -> Batch:
        """As `TokenStream.events`."""
        if self._parts is None:
            self._parts = self._asked_parts()
            await self._start(self._parts)
        if len(self._streams) == 1:
            return self._as_original(await self._streams[0].events(), self._parts[0])
        while self._next:
            done, _ = await asyncio.wait(self._next, return_when=asyncio.FIRST_COMPLETED)
            # What came before a failure is delivered before the failure is told.
            task = min(done, key=lambda task: task.exception() is not None)
            place, batch = self._next.pop(task), task.result()
            if batch:
                self._follow(place)
                return self._as_original(batch, self._parts[place])
        return []

    def _asked_parts(self) -> list[Part]:
        request = self._request
        whole = GenerateRequest(request.request_id, request.input_ids, request.parameters)
        rest = rest_of(whole, self._delivered, None, 1)
        if isinstance(rest, CannotResume):
            raise Unavailable(f"the answer was cut {rest.reason}", retry_after_s=0)
        return rest

    async def _start(self, parts: Sequence[Part]) -> None:
        for part in parts:
            asked = part.request
            metadata = dict(self._request.metadata)
            if asked.output_tokens:
                metadata[OUTPUT_TOKENS] = str(asked.output_tokens)
            name, number = self._request.model_name, self._request.request_id
            request = TokenRequest(name, number, asked.prompt_token_ids, asked.parameters, metadata)
            self._streams.append(await self._source.stream(request))
        if len(parts) > 1:
            for place in range(len(parts)):
                self._follow(place)

    def _follow(self, place: int) -> None:
        self._next[asyncio.ensure_future(self._streams[place].events())] = place

    def _as_original(self, batch: Batch, part: Part) -> Batch:
        if part.choice is None:
            return batch
        return [self._event(event, part.choice) for event in batch]

    def _event(self, event: TokenEvent, choice: int) -> TokenEvent:
        is_opening = choice == 0 and not self._delivered[0].opened and event.prompt_tokens is not None
        return msgspec.structs.replace(
            event,
            index=choice,
            prompt_tokens=len(self._request.input_ids) if is_opening else None,
            cached_tokens=event.cached_tokens if is_opening else None,
            prompt_logprobs=event.prompt_logprobs if is_opening else None,
        )

    async def close(self) -> None:
        for task in self._next:
            task.cancel()
        await asyncio.gather(*self._next, return_exceptions=True)
        self._next.clear()
        for stream in self._streams:
            await stream.close()
        self._streams.clear()
