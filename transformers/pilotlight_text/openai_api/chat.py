"""POST /chat/completions: messages to a prompt, a prompt to the assistant's words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from pilotlight_text.detokenization.logprob_text import chat_logprobs
from pilotlight_text.openai_api.answers import DONE, Chunks, whole_answer
from pilotlight_text.openai_api.requests import ChatRequest, chat_parameters, read_chat_request, template_messages
from pilotlight_text.text_model import TextModel, TextRequest, add_facts, timed
from pilotlight_wire.handlers import Reply, RequestContext, Stream
from pilotlight_wire.hop_headers import forwarded_headers


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
            chunks = Chunks("chat.completion", answer_id, created, request.model, include_usage=request.include_usage)
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
        vocabulary = self._model.loaded().codec.vocabulary
        choices = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": None if choice.logprobs is None else chat_logprobs(choice.logprobs, vocabulary),
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            for choice in completion.choices
        ]
        model = text_request.model_name
        return Reply(whole_answer("chat.completion", answer_id, created, model, choices, completion.usage))

    async def _stream(
        self, request: ChatRequest, text_request: TextRequest, chunks: Chunks, context: RequestContext
    ) -> AsyncIterator[bytes]:
        vocabulary = self._model.loaded().codec.vocabulary
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
                        logprobs = None if piece.logprobs is None else chat_logprobs(piece.logprobs, vocabulary)
                        out += chunks.piece(piece.index, piece, logprobs)
                    elif piece.text:
                        out += chunks.text(piece.index, piece.text)
                if out:
                    yield out
            yield chunks.usage(text.usage()) + DONE if request.include_usage else DONE
        finally:
            await text.close()
