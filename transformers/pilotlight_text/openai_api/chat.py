"""POST /chat/completions: messages to a prompt, a prompt to the assistant's words, and the chunks they are sent in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from pilotlight_text.detokenization.logprob_text import chat_logprobs
from pilotlight_text.detokenization.text_stream import Piece, Usage
from pilotlight_text.openai_api.answers import (
    DONE,
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    Delta,
    usage_object,
)
from pilotlight_text.openai_api.requests import ChatRequest, chat_parameters, read_chat_request
from pilotlight_text.templates.chat_template import template_messages
from pilotlight_text.text_model import TextModel, TextRequest, add_facts, timed
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.hop_headers import forwarded_headers

_encode = msgspec.json.Encoder().encode


class ChatCompletions:
    """`now_s` gives Unix seconds, for `created`."""

    def __init__(self, model: TextModel, now_s: Callable[[], float]) -> None:
        self._model = model
        self._now_s = now_s

    async def handle(self, context: RequestContext) -> Reply | Stream:
        request = read_chat_request(context.body)
        self._model.require(request.model)
        text_request = TextRequest(
            request.model,
            context.request_id,
            await self._prompt(request, context),
            chat_parameters(request),
            forwarded_headers(context.headers),
            include_stop_str_in_output=bool(request.include_stop_str_in_output),
        )
        answer_id, created = f"chatcmpl-{context.request_id}", int(self._now_s())
        if request.stream:
            chunks = ChatChunks(answer_id, created, request.model, include_usage=request.include_usage)
            return Stream(self._stream(request, text_request, chunks, context))
        return await self._whole(text_request, answer_id, created, context)

    async def _prompt(self, request: ChatRequest, context: RequestContext) -> list[int]:
        loaded = self._model.loaded()
        messages = template_messages(request.messages)
        loaded.codec.check_chars(sum(len(message["content"]) for message in messages), "messages")
        continues = bool(request.continue_final_message)
        with timed(context, "tokenize"):
            text = await loaded.template.render(
                messages,
                tools=request.tools,
                add_generation_prompt=not continues and request.add_generation_prompt is not False,
                continue_final_message=continues,
                variables=request.chat_template_kwargs,
            )
            return await loaded.codec.encode(
                text, add_special_tokens=bool(request.add_special_tokens), param="messages"
            )

    async def _whole(self, text_request: TextRequest, answer_id: str, created: int, context: RequestContext) -> Reply:
        completion = await self._model.complete(text_request)
        add_facts(context, [completion.facts])
        choices = [
            ChatChoice(
                choice.index,
                AssistantMessage("assistant", choice.text, None),
                self._logprobs(choice),
                choice.end_reason(),
                choice.stop_reason,
            )
            for choice in completion.choices
        ]
        usage = usage_object(completion.usage)
        return Reply(
            _encode(ChatCompletion(answer_id, "chat.completion", created, text_request.model_name, choices, usage))
        )

    async def _stream(
        self, request: ChatRequest, text_request: TextRequest, chunks: ChatChunks, context: RequestContext
    ) -> AsyncIterator[bytes]:
        text = await self._model.stream(text_request)
        add_facts(context, [text.facts])
        spoken: set[int] = set()
        try:
            while pieces := await text.pieces():
                out = b""
                for piece in pieces:
                    if piece.index not in spoken:
                        spoken.add(piece.index)
                        out += chunks.role(piece.index)
                    if piece.finish_reason is not None or piece.logprobs is not None:
                        out += chunks.piece(piece, self._logprobs(piece))
                    elif piece.text:
                        out += chunks.text(piece.index, piece.text)
                if out:
                    yield out
            yield chunks.usage(text.usage()) + DONE if request.include_usage else DONE
        finally:
            await text.close()

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if piece.logprobs is None:
            return None
        return chat_logprobs(piece.logprobs, self._model.loaded().codec.vocabulary)


class ChatChunks:
    """Writes the server-sent events of one streamed answer; what they share is encoded once."""

    def __init__(self, answer_id: str, created: int, model: str, *, include_usage: bool) -> None:
        usage = None if include_usage else msgspec.UNSET
        self._frame = ChatChunk(answer_id, "chat.completion.chunk", created, model, [], usage)
        before, after = _encode(self._frame).rsplit(b"[]", 1)
        self._before, self._after = b"data: " + before + b"[", b"]" + after + b"\n\n"
        self._after_text = b'},"logprobs":null,"finish_reason":null}' + self._after
        self._before_text: dict[int, bytes] = {}

    def role(self, index: int) -> bytes:
        """The first chunk of a choice."""
        return self._chunk(ChatChunkChoice(index, Delta(role="assistant", content="")))

    def text(self, index: int, text: str) -> bytes:
        """A chunk with nothing but text: the one that is written for every token."""
        before = self._before_text.get(index)
        if before is None:
            before = self._before_text[index] = self._before + b'{"index":%d,"delta":{"content":' % index
        return before + _encode(text) + self._after_text

    def piece(self, piece: Piece, logprobs: dict[str, Any] | None) -> bytes:
        """A chunk with log-probabilities, or the last one of a choice."""
        stop_reason = msgspec.UNSET if piece.finish_reason is None else piece.stop_reason
        delta = Delta(content=piece.text)
        return self._chunk(ChatChunkChoice(piece.index, delta, logprobs, piece.finish_reason, stop_reason))

    def usage(self, usage: Usage) -> bytes:
        """The chunk without choices that `stream_options.include_usage` asks for."""
        return b"data: " + _encode(msgspec.structs.replace(self._frame, usage=usage_object(usage))) + b"\n\n"

    def _chunk(self, choice: ChatChunkChoice) -> bytes:
        return self._before + _encode(choice) + self._after
