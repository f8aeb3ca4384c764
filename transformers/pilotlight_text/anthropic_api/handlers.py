"""What the /messages routes do: a message made whole or in events, and the tokens of a conversation counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec

from pilotlight_protocol.generation import parse_parameters
from pilotlight_text.anthropic_api.answers import MessageAnswer, MessageUsage, TokenCount, usage_object
from pilotlight_text.anthropic_api.asked_conversation import conversation_of
from pilotlight_text.anthropic_api.message_output import MessageOutput
from pilotlight_text.anthropic_api.requests import (
    COUNT_FIELDS,
    MESSAGE_FIELDS,
    MessagesRequest,
    messages_parameters,
    read_count_request,
    read_messages_request,
)
from pilotlight_text.conversation.choices import ChoiceDelta
from pilotlight_text.conversation.conversation import Conversation
from pilotlight_text.conversation.conversations import Conversations
from pilotlight_text.detokenization.text_stream import Usage
from pilotlight_text.named_events import written
from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext, Stream

_encode = msgspec.json.Encoder().encode


class Messages:
    """`new_token`: letters and digits that nobody else has, for ids."""

    def __init__(self, model: TextModel, new_token: Callable[[], str]) -> None:
        self._model = model
        self._conversations = Conversations(model)
        self._new_token = new_token

    async def create(self, context: RequestContext) -> Reply | Stream:
        request, ignored = read_messages_request(context.body)
        MESSAGE_FIELDS.note(ignored, context)
        self._model.require(request.model)
        context.response_headers["request-id"] = context.request_id
        conversation = conversation_of(request, messages_parameters(request))
        output = self._output(request)
        if request.stream:
            return Stream(self._stream(conversation, output, context))
        answer = await self._conversations.collect(conversation, context)
        (choice,) = answer.choices
        output.push(choice.parts)
        usage = usage_object(answer.usage)
        output.finish(usage, choice.finish_reason, choice.stop_reason)
        return Reply(_encode(output.message))

    async def count_tokens(self, context: RequestContext) -> Reply:
        request = read_count_request(context.body)
        COUNT_FIELDS.note_in(context.body, context)
        self._model.require(request.model)
        conversation = conversation_of(request, parse_parameters(None))
        ids = await self._conversations.prompt_ids(conversation, context)
        return Reply(_encode(TokenCount(len(ids))))

    async def _stream(
        self, conversation: Conversation, output: MessageOutput, context: RequestContext
    ) -> AsyncIterator[bytes]:
        answer = await self._conversations.start(conversation, context)
        try:
            last: ChoiceDelta | None = None
            while deltas := await answer.deltas():
                events = [] if last is not None else output.begin(_prompt_usage(answer.text.usage()))
                for last in deltas:
                    events += output.push(last.parts)
                if events:
                    yield written(events)
            assert last is not None
            assert last.finish_reason is not None
            usage = usage_object(await answer.usage())
            yield written(output.finish(usage, last.finish_reason, last.stop_reason))
        finally:
            await answer.close()

    def _output(self, request: MessagesRequest) -> MessageOutput:
        message = MessageAnswer(
            id=self._new_id("msg"),
            model=request.model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=usage_object(Usage()),
        )
        hides = request.thinking is not None and request.thinking.display == "omitted"
        return MessageOutput(message, self._new_id, hides_thinking=hides)

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{self._new_token()}"


def _prompt_usage(usage: Usage) -> MessageUsage:
    return usage_object(Usage(usage.prompt_tokens, 0, usage.cached_tokens))
