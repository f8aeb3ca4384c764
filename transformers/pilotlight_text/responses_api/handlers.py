"""What the /responses routes do: a response made whole or in events, kept, read again, continued and forgotten.

Responsible for when a response is kept: when it is whole, before its last event is sent, and by its sender where that
keeps responses. It must not know how a model marks what it says.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput, PilotlightError
from pilotlight_protocol.generation import TokenLogprob
from pilotlight_text.conversation.choices import ChoiceDelta
from pilotlight_text.conversation.conversation import Conversation
from pilotlight_text.conversation.conversations import Conversations
from pilotlight_text.detokenization.logprob_text import chat_logprobs
from pilotlight_text.named_events import written
from pilotlight_text.responses_api.answers import (
    DeletedResponse,
    InputItemList,
    InputTokenCount,
    Response,
    usage_object,
)
from pilotlight_text.responses_api.given_history import take_history
from pilotlight_text.responses_api.input_items import as_items, unread_keys
from pilotlight_text.responses_api.item_pages import page_of
from pilotlight_text.responses_api.requested_response import conversation_of, listed_items, response_of
from pilotlight_text.responses_api.requests import (
    RESPONSE_FIELDS,
    ResponsesRequest,
    in_own_words,
    read_responses_request,
    wants_logprobs,
)
from pilotlight_text.responses_api.response_output import ResponseOutput
from pilotlight_text.responses_api.response_store import ResponseStore, read_items
from pilotlight_text.responses_api.stored_responses import StoredResponse
from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.hop_headers import HISTORY, TENANT

Json = dict[str, Any]
_encode = msgspec.json.Encoder().encode


class Responses:
    """`now_s`: Unix seconds. `new_token`: letters and digits that nobody guesses, for ids."""

    def __init__(
        self, model: TextModel, stored: ResponseStore, now_s: Callable[[], float], new_token: Callable[[], str]
    ) -> None:
        self._model = model
        self._conversations = Conversations(model)
        self._stored = stored
        self._now_s = now_s
        self._new_token = new_token

    async def create(self, context: RequestContext) -> Reply | Stream:
        request, given = self._asked(context)
        try:
            return await self._created(request, await self._conversation(request, given, context), context)
        except PilotlightError as error:
            raise in_own_words(error) from error.__cause__

    async def count_input_tokens(self, context: RequestContext) -> Reply:
        """Of the prompt that the same request to `create` would have."""
        request, given = self._asked(context)
        try:
            ids = await self._conversations.prompt_ids(await self._conversation(request, given, context), context)
        except PilotlightError as error:
            raise in_own_words(error) from error.__cause__
        return Reply(_encode(InputTokenCount(len(ids))))

    def _asked(self, context: RequestContext) -> tuple[ResponsesRequest, list[Json] | None]:
        """And what it continues, where its sender knows that."""
        given = take_history(context)
        request, ignored = read_responses_request(context.body)
        RESPONSE_FIELDS.note([*ignored, *unread_keys(as_items(request.input))], context)
        self._model.require(request.model)
        return request, given

    async def _conversation(
        self, request: ResponsesRequest, given: list[Json] | None, context: RequestContext
    ) -> Conversation:
        history = given or []
        if given is None and request.previous_response_id is not None:
            kept = await self._stored.history(request.previous_response_id, _tenant(context), request.model)
            history = await read_items(kept)
        return conversation_of(request, history)

    async def _created(
        self, request: ResponsesRequest, conversation: Conversation, context: RequestContext
    ) -> Reply | Stream:
        response = response_of(request, self._new_id("resp"), int(self._now_s()))
        output = ResponseOutput(response, self._new_id)
        if request.stream:
            return Stream(self._stream(request, conversation, output, context))
        return Reply(_encode(await self._whole(request, conversation, output, context)))

    async def retrieve(self, context: RequestContext) -> Reply:
        if context.query.get("stream") == "true":
            raise InvalidInput("'stream' is not supported: a stored response is whole; read it without", param="stream")
        return Reply((await self._found(context)).response)

    async def delete(self, context: RequestContext) -> Reply:
        response_id = context.path_parameters["response_id"]
        await self._stored.delete(response_id, _tenant(context))
        return Reply(_encode(DeletedResponse(response_id)))

    async def cancel(self, context: RequestContext) -> Reply:
        await self._found(context)
        raise InvalidInput("only a background response can be cancelled, and there are none here; close the connection")

    async def input_items(self, context: RequestContext) -> Reply:
        items = msgspec.json.decode((await self._found(context)).input_items)
        page, has_more = page_of(items, context.query)
        first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        return Reply(_encode(InputItemList(page, first, last, has_more)))

    async def _found(self, context: RequestContext) -> StoredResponse:
        return await self._stored.get(context.path_parameters["response_id"], _tenant(context))

    async def _whole(
        self, request: ResponsesRequest, conversation: Conversation, output: ResponseOutput, context: RequestContext
    ) -> Response:
        if wants_logprobs(request):  # which of them belong to the content is seen in the order in which they come
            async for _ in self._events(request, conversation, output, context):
                pass
            return output.response
        answer = await self._conversations.collect(conversation, context)
        (choice,) = answer.choices
        output.push(choice.parts)
        output.finish(
            usage_object(answer.usage),
            int(self._now_s()),
            choice.finish_reason,
            cuts_call=choice.cuts_call,
        )
        await self._keep(request, output.response, context)
        return output.response

    async def _stream(
        self, request: ResponsesRequest, conversation: Conversation, output: ResponseOutput, context: RequestContext
    ) -> AsyncIterator[bytes]:
        begun = False
        try:
            async for events in self._events(request, conversation, output, context):
                begun = True
                yield events
        except PilotlightError as error:
            if begun:
                yield written(output.fail(error.message))
            raise in_own_words(error) from error.__cause__

    async def _events(
        self, request: ResponsesRequest, conversation: Conversation, output: ResponseOutput, context: RequestContext
    ) -> AsyncIterator[bytes]:
        answer = await self._conversations.start(conversation, context)
        try:
            events = output.begin()
            last: ChoiceDelta | None = None
            while deltas := await answer.deltas():
                for last in deltas:
                    events += output.push(last.parts, self._logprobs(last.logprobs))
                if events:
                    yield written(events)
                events = []
            assert last is not None
            assert last.finish_reason is not None
            usage = usage_object(await answer.usage())
            events = output.finish(usage, int(self._now_s()), last.finish_reason, cuts_call=last.cuts_call)
            await self._keep(request, output.response, context)
            yield written(events)
        finally:
            await answer.close()

    async def _keep(self, request: ResponsesRequest, response: Response, context: RequestContext) -> None:
        if not response.store or HISTORY in context.headers:
            return
        stored = StoredResponse(
            _tenant(context),
            request.model,
            response.id,
            request.previous_response_id,
            _encode(listed_items(as_items(request.input), self._new_id)),
            _encode(response.output),
            _encode(response),
        )
        await self._stored.put(stored)

    def _logprobs(self, logprobs: list[TokenLogprob] | None) -> list[dict[str, Any]] | None:
        if logprobs is None:
            return None
        content: list[dict[str, Any]] = chat_logprobs(logprobs, self._model.loaded().codec.vocabulary)["content"]
        return content

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{self._new_token()}"


def _tenant(context: RequestContext) -> str:
    return context.headers.get(TENANT, "")
