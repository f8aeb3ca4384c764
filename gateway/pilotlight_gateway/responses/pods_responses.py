"""Responses that pods made, kept here and given back with the request that continues one: pods have replicas, come and
go, and keep nothing for anybody.

It keeps what this process's own answers are kept in, so that one is found, listed and continued whoever made it. Whose
a response is decides who finds it. It must not know which pods answer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Literal

import msgspec

from pilotlight_gateway.pods_way.pods_request import PodsRequest
from pilotlight_gateway.request_steps import GatewayRequest
from pilotlight_gateway.routing.asked_name import with_model
from pilotlight_text.responses_api.given_history import with_history
from pilotlight_text.responses_api.response_store import ResponseStore
from pilotlight_text.responses_api.stored_responses import StoredResponse
from pilotlight_wire.hop_headers import HISTORY, TENANT

_log = logging.getLogger("pilotlight.gateway.pods")
_MADE, _COUNTED = "/responses", "/responses/input_tokens"
_LAST = (b'"response.completed"', b'"response.incomplete"')


class _Asked(msgspec.Struct):
    input: str | list[dict[str, Any]] = ""
    previous_response_id: str | None = None


class _Response(msgspec.Struct):
    id: str
    output: list[msgspec.Raw]
    store: bool = True


class _LastEvent(msgspec.Struct):
    type: Literal["response.completed", "response.incomplete"]
    response: msgspec.Raw


_encode = msgspec.json.Encoder().encode
_asked = msgspec.json.Decoder(_Asked)
_responses = msgspec.json.Decoder(_Response)
_last_events = msgspec.json.Decoder(_LastEvent)


def is_of_responses(request: GatewayRequest) -> bool:
    """Whether it may continue one, to components that can be given what it continues."""
    path = request.place.path.rstrip("/")
    return request.entry.text is not None and request.place.method == "POST" and path.endswith((_MADE, _COUNTED))


class PodsResponses:
    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def given(self, request: GatewayRequest, asked: PodsRequest) -> PodsRequest:
        """With all that it continues. Raises PreviousResponseNotFound, and InvalidInput where that is too much."""
        try:
            previous = _asked.decode(request.context.body).previous_response_id
        except (msgspec.MsgspecError, RecursionError):
            return asked  # which the pods refuse in their own words
        items = b""
        if previous is not None:
            items = await self._store.history(previous, _tenant(request), request.asked.model or "")
        length, body = with_history(asked.body, items)
        return replace(asked, headers={**asked.headers, HISTORY: length}, body=body)

    async def keep(self, request: GatewayRequest, response: bytes) -> None:
        stored = _stored(request, response) if request.place.path.rstrip("/").endswith(_MADE) else None
        if stored is not None:
            await self._store.put(stored)

    def watch(self, request: GatewayRequest) -> WatchedStream:
        return WatchedStream(lambda response: self.keep(request, response))


class WatchedStream:
    """A stream of which the last event's response is kept. `aclose`, before the client sees its end, waits for that."""

    def __init__(self, keep: Callable[[bytes], Coroutine[Any, Any, None]]) -> None:
        self._keep = keep
        self._keeping: asyncio.Task[None] | None = None

    def look(self, events: bytes) -> None:
        """At each piece, of whole events."""
        if self._keeping is not None or not any(last in events for last in _LAST):
            return
        for line in events.splitlines():
            if line.startswith(b"data:") and any(last in line for last in _LAST):
                try:
                    response = _last_events.decode(line[5:]).response
                except (msgspec.MsgspecError, RecursionError):
                    continue  # another event that holds the words, such as the first with a client's metadata
                self._keeping = asyncio.create_task(self._keep(bytes(response)), name="keep a response")
                return

    async def aclose(self) -> None:
        if self._keeping is not None:
            await asyncio.wait({self._keeping})


def _stored(request: GatewayRequest, response: bytes) -> StoredResponse | None:
    from pilotlight_text.responses_api.input_items import as_items  # only where responses are asked for
    from pilotlight_text.responses_api.requested_response import listed_items

    try:
        asked, made = _asked.decode(request.context.body), _responses.decode(response)
        if not made.store:
            return None
        items, output = _encode(listed_items(as_items(asked.input), _new_id)), _encode(made.output)
    except (msgspec.MsgspecError, RecursionError, KeyError):
        _log.warning("the response to request %s cannot be kept: it is none", request.context.request_id)
        return None
    name = request.asked.model or request.model_name
    shown = response if name == request.model_name else with_model(response, name)
    return StoredResponse(_tenant(request), name, made.id, asked.previous_response_id, items, output, shown)


def _tenant(request: GatewayRequest) -> str:
    return request.context.headers.get(TENANT, "")


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"
