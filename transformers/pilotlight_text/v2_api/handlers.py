"""The V2 side of the transformer: infer over text tensors, generate, generate_stream, and infer as a gRPC stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.v2 import InferRequest, InferResponse
from pilotlight_text.detokenization.text_stream import Usage
from pilotlight_text.text_model import VERSION, TextModel, TextRequest, add_facts, timed
from pilotlight_text.v2_api.answers import Events, Head, whole_answer
from pilotlight_text.v2_api.requests import (
    TEXT_INPUT,
    TextCall,
    output_tensors,
    piece_tensors,
    read_generate,
    read_infer,
)
from pilotlight_wire.handlers import Reply, RequestContext, Route, Stream
from pilotlight_wire.request_time import passed_on


class V2Text:
    def __init__(self, model: TextModel) -> None:
        self._model = model

    def routes(self) -> list[Route]:
        return [
            Route("POST", f"/v2/models/{{model_name}}{version}/{verb}", handler)
            for version in ("", "/versions/{version}")
            for verb, handler in (("generate", self.generate), ("generate_stream", self.generate_stream))
        ]

    async def generate(self, context: RequestContext) -> Reply | Stream:
        call = read_generate(context.body)
        if call.stream:
            return await self._stream(call, context)
        (text_request,) = await self._text_requests(call, context)
        completion = await self._model.complete(text_request)
        add_facts(context, [completion.facts])
        return Reply(whole_answer(_head(call, context), completion, self._model.loaded().codec.vocabulary))

    async def generate_stream(self, context: RequestContext) -> Reply | Stream:
        return await self._stream(read_generate(context.body), context)

    async def _stream(self, call: TextCall, context: RequestContext) -> Stream:
        (text_request,) = await self._text_requests(call, context)
        return Stream(self._events(call, text_request, context))

    async def _events(self, call: TextCall, text_request: TextRequest, context: RequestContext) -> AsyncIterator[bytes]:
        events = Events(_head(call, context), self._model.loaded().codec.vocabulary)
        text = await self._model.stream(text_request)
        try:
            add_facts(context, [text.facts])
            while pieces := await text.pieces():
                shown = [piece for piece in pieces if piece.text or piece.finish_reason or piece.logprobs]
                if shown:
                    usage = text.usage()
                    yield b"".join([events.piece(piece, usage, text.prompt_logprobs) for piece in shown])
        finally:
            await text.close()

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse:
        """`text_input` BYTES [batch] → `text_output`, `finish_reason` BYTES [batch] ([batch, n] for `n` > 1)."""
        call = read_infer(request)
        text_requests = await self._text_requests(call, context)
        completions = await self._model.complete_all(text_requests)
        add_facts(context, [completion.facts for completion in completions])
        usage = Usage()
        for completion in completions:
            usage.add(completion.usage)
        return InferResponse(
            model_name=context.model_name,
            model_version=VERSION,
            outputs=output_tensors(completions, call.parameters.n),
            id=call.id,
            parameters={"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
        )

    async def stream_infer(self, request: InferRequest, context: RequestContext) -> AsyncIterator[InferResponse]:
        """One response per piece; `parameters.index` is the choice."""
        call = read_infer(request)
        if len(call.texts) != 1:
            raise InvalidInput("a stream takes one text per request; send one request per text", param=TEXT_INPUT)
        (text_request,) = await self._text_requests(call, context)
        text = await self._model.stream(text_request)
        try:
            add_facts(context, [text.facts])
            while pieces := await text.pieces():
                for piece in pieces:
                    if piece.text or piece.finish_reason:
                        yield InferResponse(
                            model_name=context.model_name,
                            model_version=VERSION,
                            outputs=piece_tensors(piece),
                            id=call.id,
                            parameters={"index": piece.index},
                        )
        finally:
            await text.close()

    async def _text_requests(self, call: TextCall, context: RequestContext) -> list[TextRequest]:
        codec = self._model.loaded().codec
        with timed(context, "tokenize"):
            prompts = [
                await codec.encode(text, add_special_tokens=True, param=TEXT_INPUT, truncation=call.truncation)
                for text in call.texts
            ]
        headers = passed_on(context)
        return [
            TextRequest(
                context.model_name,
                context.request_id if len(prompts) == 1 else f"{context.request_id}-{place}",
                ids,
                call.parameters,
                headers,
                include_stop_str_in_output=call.include_stop_str_in_output,
                skip_special_tokens=call.skip_special_tokens,
            )
            for place, ids in enumerate(prompts)
        ]


def _head(call: TextCall, context: RequestContext) -> Head:
    return context.model_name, VERSION, call.id if call.id is not None else context.request_id
