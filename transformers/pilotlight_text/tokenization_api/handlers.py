"""What /tokenize and /detokenize do with the model's tokenizer and template. No tokens are made: no engine is woken."""

from __future__ import annotations

from functools import partial

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.text_model import LoadedText, TextModel, timed
from pilotlight_text.tokenization_api.answers import Detokenized, Tokenized
from pilotlight_text.tokenization_api.requests import (
    DETOKENIZE_FIELDS,
    TOKENIZE_FIELDS,
    TokenizeRequest,
    read_detokenize,
    read_tokenize,
)
from pilotlight_wire.handlers import Reply, RequestContext

_encode = msgspec.json.Encoder().encode


async def tokenize(model: TextModel, context: RequestContext) -> Reply:
    request = read_tokenize(context.body)
    TOKENIZE_FIELDS.note_in(context.body, context)
    if request.model is not None:
        model.require_name(request.model)
    loaded = model.loaded()
    with timed(context, "tokenize"):
        tokens = await _tokens(request, loaded)
    texts = [loaded.codec.token_text(token) or "" for token in tokens] if request.return_token_strs else None
    length = loaded.codec.max_model_len
    return Reply(_encode(Tokenized(len(tokens), tokens, texts, msgspec.UNSET if length is None else length)))


async def detokenize(model: TextModel, context: RequestContext) -> Reply:
    request = read_detokenize(context.body)
    DETOKENIZE_FIELDS.note_in(context.body, context)
    if request.model is not None:
        model.require_name(request.model)
    codec = model.loaded().codec
    for place, token in enumerate(request.tokens):
        if codec.token_text(token) is None:
            raise InvalidInput(f"'tokens[{place}]': {token} is no token of this model's tokenizer", param="tokens")
    with timed(context, "detokenize"):
        return Reply(_encode(Detokenized(await codec.text_of(request.tokens))))


async def _tokens(request: TokenizeRequest, loaded: LoadedText) -> list[int]:
    if request.prompt is not None:
        return await loaded.codec.tokens_of(
            request.prompt, add_special_tokens=request.add_special_tokens is not False, param="prompt"
        )
    messages = request.messages or ()
    continues = bool(request.continue_final_message)
    text = await loaded.template.render(
        messages,
        tools=request.tools,
        add_generation_prompt=not continues and request.add_generation_prompt is not False,
        continue_final_message=continues,
        variables=request.chat_template_kwargs,
        check_chars=partial(loaded.codec.check_chars, param="messages"),
    )
    return await loaded.codec.tokens_of(text, add_special_tokens=bool(request.add_special_tokens), param="messages")
