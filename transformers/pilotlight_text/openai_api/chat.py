"""POST /chat/completions: a request to a conversation, and its answer to a message or to chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pilotlight_protocol.generation import TokenLogprob
from pilotlight_text.conversation.choices import WholeChoice
from pilotlight_text.conversation.constraint_field import CONSTRAINT
from pilotlight_text.conversation.conversation import Conversation, TemplateOptions
from pilotlight_text.conversation.conversations import ConversationAnswer, Conversations
from pilotlight_text.detokenization.logprob_text import chat_logprobs, vllm_prompt_logprobs
from pilotlight_text.detokenization.text_stream import Piece, TextStream
from pilotlight_text.openai_api.answers import AssistantMessage, ChatChoice, ChatCompletion, usage_object
from pilotlight_text.openai_api.chunks import DONE, ChatChunks
from pilotlight_text.openai_api.echo import echoed
from pilotlight_text.openai_api.requests import CHAT_FIELDS, ChatRequest, answer_id, read_chat_request
from pilotlight_text.openai_api.sampling import chat_parameters, format_field, truncation_of
from pilotlight_text.resumption.current_record import random_token
from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext, Stream

if TYPE_CHECKING:
    from pilotlight_text.tokenization_api.requests import TokenizeRequest

_encode = msgspec.json.Encoder().encode


def random_call_id() -> str:
    return f"call_{random_token(12)}"


class ChatCompletions:
    """`now_s` gives Unix seconds, for `created`."""

    def __init__(
        self,
        model: TextModel,
        now_s: Callable[[], float],
        new_call_id: Callable[[], str] = random_call_id,
        conversations: Conversations | None = None,
    ) -> None:
        self._model = model
        self._conversations = conversations or Conversations(model)
        self._now_s = now_s
        self._new_call_id = new_call_id

    async def handle(self, context: RequestContext) -> Reply | Stream:
        request, ignored = read_chat_request(context.body)
        CHAT_FIELDS.note(ignored, context)
        self._model.require(request.model)
        conversation = conversation_of(request)
        named, created = answer_id("chatcmpl", request, context), int(self._now_s())
        if request.stream:
            chunks = ChatChunks(named, created, request.model, include_usage=request.include_usage)
            return Stream(self._stream(request, conversation, chunks, context))
        return await self.whole(request, conversation, named, created, context)

    async def whole(
        self, request: ChatRequest, conversation: Conversation, named: str, created: int, context: RequestContext
    ) -> Reply:
        answer = await self._conversations.collect(conversation, context)
        before = echoed(request) if request.echo else ""
        choices = [
            ChatChoice(
                choice.index,
                self._message(choice, before),
                self._logprobs(request, choice.logprobs),
                choice.finish_reason,
                choice.stop_reason,
                msgspec.UNSET if choice.token_ids is None else choice.token_ids,
            )
            for choice in answer.choices
        ]
        completion = ChatCompletion(
            named, "chat.completion", created, request.model, choices, usage_object(answer.usage)
        )
        if request.prompt_logprobs is not None and answer.prompt_logprobs is not None:
            vocabulary, most = self._model.loaded().codec.vocabulary, int(request.prompt_logprobs)
            completion.prompt_logprobs = vllm_prompt_logprobs(answer.prompt_logprobs, vocabulary, most)
        if request.return_token_ids:
            completion.prompt_token_ids = answer.prompt_ids
        if request.return_prompt_text:
            completion.prompt_text = answer.prompt_text
        return Reply(_encode(completion))

    def _message(self, choice: WholeChoice, before: str) -> AssistantMessage:
        from pilotlight_text.openai_api.chat_parts import message

        made = message(choice, self._new_call_id)
        if before:
            made.content = before + (made.content or "")
        return made

    async def _stream(
        self, request: ChatRequest, conversation: Conversation, chunks: ChatChunks, context: RequestContext
    ) -> AsyncIterator[bytes]:
        answer = await self._conversations.start(conversation, context)
        if request.return_token_ids or request.return_prompt_text:
            chunks.tell_prompt(
                answer.prompt_ids if request.return_token_ids else msgspec.UNSET,
                answer.prompt_text if request.return_prompt_text else msgspec.UNSET,
            )
        try:
            if request.echo and (before := echoed(request)):
                yield chunks.echo(before, conversation.parameters.n)
            if answer.is_plain:
                spoken: set[int] = set()
                only_text = not (request.usage_in_every_chunk or request.return_token_ids or request.logprobs)
                while pieces := await answer.text.pieces():
                    piece = pieces[0]
                    if only_text and len(pieces) == 1 and piece.finish_reason is None and piece.index in spoken:
                        if piece.text:  # what is written for every token
                            yield chunks.text(piece.index, piece.text)
                    elif out := self._written(request, answer.text, pieces, chunks, spoken):
                        yield out
            else:
                async for out in self._parts(request, answer, chunks):
                    yield out
            yield chunks.usage(await answer.usage()) + DONE if request.include_usage else DONE
        finally:
            await answer.close()

    def _written(
        self, request: ChatRequest, text: TextStream, pieces: Sequence[Piece], chunks: ChatChunks, spoken: set[int]
    ) -> bytes:
        out = b""
        every_usage = request.usage_in_every_chunk
        for piece in pieces:
            if every_usage:
                chunks.usage_now = text.usage_of(piece.index)
            if piece.index not in spoken:
                spoken.add(piece.index)
                out += chunks.role(piece.index)
            if (
                piece.finish_reason is not None
                or piece.logprobs is not None
                or piece.token_ids is not None
                or every_usage
            ):
                out += chunks.piece(piece, self._logprobs(request, piece.logprobs))
            elif piece.text:
                out += chunks.text(piece.index, piece.text)
        return out

    async def _parts(
        self, request: ChatRequest, answer: ConversationAnswer, chunks: ChatChunks
    ) -> AsyncIterator[bytes]:
        from pilotlight_text.openai_api.chat_parts import PartChunks

        written = PartChunks(chunks, self._new_call_id)
        while deltas := await answer.deltas():
            out = b""
            for delta in deltas:
                if request.usage_in_every_chunk:
                    chunks.usage_now = answer.text.usage_of(delta.index)
                out += written.write(delta, self._logprobs(request, delta.logprobs))
            if out:
                yield out

    def _logprobs(self, request: ChatRequest, logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
        if logprobs is None:
            return None
        as_ids = bool(request.return_tokens_as_token_ids)
        return chat_logprobs(logprobs, self._model.loaded().codec.vocabulary, as_ids=as_ids)


def template_options(request: ChatRequest | TokenizeRequest) -> TemplateOptions:
    """What a conversation's template is given, whether it is answered or only counted."""
    return TemplateOptions(
        variables=request.chat_template_kwargs,
        documents=request.documents,
        reasoning_effort=request.reasoning_effort,
        add_generation_prompt=request.add_generation_prompt is not False,
        continue_final_message=bool(request.continue_final_message),
        add_special_tokens=bool(request.add_special_tokens),
    )


def conversation_of(request: ChatRequest) -> Conversation:
    parameters = chat_parameters(request)
    conversation = Conversation(
        request.model,
        request.messages,
        parameters,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        template=template_options(request),
        include_stop_str_in_output=bool(request.include_stop_str_in_output),
        include_reasoning=request.include_reasoning is not False,
        skip_special_tokens=request.hides_special_tokens,
        return_token_ids=bool(request.return_token_ids),
        truncation=truncation_of(request, parameters),
        format_field=CONSTRAINT if parameters.structured_outputs is None else format_field(request),
    )
    if not request.tools and request.tool_choice is None:
        return conversation
    from pilotlight_text.conversation.tools import with_tools

    return with_tools(conversation, request.tools or (), request.tool_choice)
