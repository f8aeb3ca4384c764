"""POST /embeddings: texts, token ids or conversations to vectors."""

from __future__ import annotations

import base64
from functools import partial

import msgspec

from pilotlight_text.ignored_fields import note_unseen
from pilotlight_text.pooling_api.answers import Embedding, EmbeddingList
from pilotlight_text.pooling_api.pooling import Clock, Pooling, floats, usage_of
from pilotlight_text.pooling_api.requests import (
    EMBEDDING_FIELDS,
    Conversation,
    EmbeddingRequest,
    inputs_of,
    read_embedding_request,
)
from pilotlight_text.pooling_api.rows import RowMaker
from pilotlight_text.pooling_source import PoolingRow
from pilotlight_text.text_model import TextModel, timed
from pilotlight_wire.handlers import Reply, RequestContext

_encode = msgspec.json.Encoder().encode


async def embeddings(model: TextModel, context: RequestContext, now_s: Clock) -> Reply:
    request = read_embedding_request(context.body)
    EMBEDDING_FIELDS.note_in(context.body, context)
    pooling = Pooling(model, context, request.model)
    pooling.require("embed")
    with timed(context, "tokenize"):
        rows, unseen = await _rows(request, model, pooling)
    note_unseen(unseen, context)
    vectors = await pooling.vectors(rows, request.parameters(request.dimensions))
    data = [Embedding(place, "embedding", _written(vector, request)) for place, vector in enumerate(vectors)]
    answer_id = f"embd-{request.request_id or context.request_id}"
    return Reply(_encode(EmbeddingList(answer_id, "list", int(now_s()), pooling.name, data, usage_of(rows))))


def _written(vector: bytes, request: EmbeddingRequest) -> list[float] | str:
    return base64.b64encode(vector).decode() if request.encoding_format == "base64" else list(floats(vector))


async def _rows(request: EmbeddingRequest, model: TextModel, pooling: Pooling) -> tuple[list[PoolingRow], list[str]]:
    """And what of conversations the template does not read."""
    maker = pooling.rows(request.truncate_prompt_tokens, request.truncation_side)
    given, conversations = inputs_of(request)
    if conversations:
        template, variables = model.loaded().template, request.chat_template_kwargs or {}
        texts = [await _rendered(model, request, conversation) for conversation in conversations]
        unseen = [
            name
            for conversation, text in zip(conversations, texts, strict=True)
            for name in await template.unseen(conversation, text, variables=variables)
        ]
        rows = await maker.of_texts(texts, special=bool(request.add_special_tokens), param="messages")
        return rows, list(dict.fromkeys(unseen))
    return await _of_inputs(maker, given, special=request.add_special_tokens is not False), []


async def _of_inputs(maker: RowMaker, given: list[str | list[int]], *, special: bool) -> list[PoolingRow]:
    texts = [item for item in given if isinstance(item, str)]
    rows = iter(await maker.of_texts(texts, special=special, param="input") if texts else ())
    return [next(rows) if isinstance(item, str) else maker.of_ids(item, param="input") for item in given]


async def _rendered(model: TextModel, request: EmbeddingRequest, conversation: Conversation) -> str:
    loaded = model.loaded()
    return await loaded.template.render(
        conversation,
        add_generation_prompt=bool(request.add_generation_prompt),
        continue_final_message=bool(request.continue_final_message),
        variables=request.chat_template_kwargs,
        check_chars=partial(loaded.codec.check_chars, param="messages"),
    )
