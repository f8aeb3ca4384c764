"""POST /chat/completions: a request to a conversation, and its answer to a message or to chunks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from pilotlight_protocol.generation import TokenLogprob
from pilotlight_text.conversation.choices import WholeChoice
from pilotlight_text.conversation.conversation import Conversation, TemplateOptions
from pilotlight_text.conversation.conversations import ConversationAnswer, Conversations
from pilotlight_text.detokenization.logprob_text import chat_logprobs
from pilotlight_text.detokenization.text_stream import Piece
from pilotlight_text.openai_api.answers import AssistantMessage, ChatChoice, ChatCompletion, usage_object
from pilotlight_text.openai_api.chunks import DONE, ChatChunks
from pilotlight_text.openai_api.requests import ChatRequest, chat_parameters, read_chat_request
from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext, Stream

_encode = msgspec.json.Encoder().encode


def random_call_id() -> str:
    return f"call_{os.urandom(12).hex()}"


class ChatCompletions:
    """`now_s` gives Unix seconds, for `created`."""

    def __init__(
        self, model: TextModel, now_s: Callable[[], float], new_call_id: Callable[[], str] = random_call_id
    ) -> None:
        self._model = model
        self._conversations = Conversations(model)
        self._now_s = now_s
        self._new_call_id = new_call_id

    async def handle(self, context: RequestContext) -> Reply | Stream:
        request = read_chat_request(context.body)
        self._model.require(request.model)
        conversation = _conversation(request)
        answer_id, created = f"chatcmpl-{context.request_id}", int(self._now_s())
        if request.stream:
            chunks = ChatChunks(answer_id, created, request.model, include_usage=request.include_usage)
            return Stream(self._stream(request, conversation, chunks, context))
        return await self._whole(conversation, answer_id, created, context)

    async def _whole(self, conversation: Conversation, answer_id: str, created: int, context: RequestContext) -> Reply:
        answer = await self._conversations.collect(conversation, context)
        choices = [
            ChatChoice(
                choice.index,
                self._message(choice),
                self._logprobs(choice.logprobs),
                choice.finish_reason,
                choice.stop_reason,
            )
            for choice in answer.choices
        ]
        usage, model = usage_object(answer.usage), conversation.model_name
        return Reply(_encode(ChatCompletion(answer_id, "chat.completion", created, model, choices, usage)))

    def _message(self, choice: WholeChoice) -> AssistantMessage:
        from pilotlight_text.openai_api.chat_parts import message

        return message(choice, self._new_call_id)

    async def _stream(
        self, request: ChatRequest, conversation: Conversation, chunks: ChatChunks, context: RequestContext
    ) -> AsyncIterator[bytes]:
        answer = await self._conversations.start(conversation, context)
        try:
            if answer.is_plain:
                spoken: set[int] = set()
                while pieces := await answer.text.pieces():
                    if out := self._written(pieces, chunks, spoken):
                        yield out
            else:
                async for out in self._parts(answer, chunks):
                    yield out
            yield chunks.usage(answer.usage()) + DONE if request.include_usage else DONE
        finally:
            await answer.close()

    def _written(self, pieces: Sequence[Piece], chunks: ChatChunks, spoken: set[int]) -> bytes:
        out = b""
        for piece in pieces:
            if piece.index not in spoken:
                spoken.add(piece.index)
                out += chunks.role(piece.index)
            if piece.finish_reason is not None or piece.logprobs is not None:
                out += chunks.piece(piece, self._logprobs(piece.logprobs))
            elif piece.text:
                out += chunks.text(piece.index, piece.text)
        return out

    async def _parts(self, answer: ConversationAnswer, chunks: ChatChunks) -> AsyncIterator[bytes]:
        from pilotlight_text.openai_api.chat_parts import PartChunks

        written = PartChunks(chunks, self._new_call_id)
        while deltas := await answer.deltas():
            if out := b"".join([written.write(delta, self._logprobs(delta.logprobs)) for delta in deltas]):
                yield out

    def _logprobs(self, logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        return chat_logprobs(logprobs, self._model.loaded().codec.vocabulary)


def _conversation(request: ChatRequest) -> Conversation:
    conversation = Conversation(
        request.model,
        request.messages,
        chat_parameters(request),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        template=TemplateOptions(
            variables=request.chat_template_kwargs,
            add_generation_prompt=request.add_generation_prompt is not False,
            continue_final_message=bool(request.continue_final_message),
            add_special_tokens=bool(request.add_special_tokens),
        ),
        include_stop_str_in_output=bool(request.include_stop_str_in_output),
        include_reasoning=request.include_reasoning is not False,
    )
    if not request.tools and request.tool_choice is None:
        return conversation
    from pilotlight_text.conversation.tools import with_tools

    return with_tools(conversation, request.tools or (), request.tool_choice)
