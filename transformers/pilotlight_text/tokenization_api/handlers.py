"""What /tokenize and /detokenize do with the model's tokenizer and template. No tokens are made: no engine is woken."""

from __future__ import annotations

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_text.text_model import TextModel, timed
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
    if request.prompt is None:
        tokens = await _of_conversation(request, model, context)
    else:
        with timed(context, "tokenize"):
            tokens = await loaded.codec.tokens_of(
                request.prompt, add_special_tokens=request.add_special_tokens is not False, param="prompt"
            )
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


async def _of_conversation(request: TokenizeRequest, model: TextModel, context: RequestContext) -> list[int]:
    """As many as a chat of the same words has in its prompt. Raises InvalidInput."""
    from pilotlight_text.conversation.conversation import Conversation
    from pilotlight_text.conversation.conversations import Conversations
    from pilotlight_text.conversation.tools import with_tools
    from pilotlight_text.openai_api.chat import template_options

    conversation = Conversation(
        request.model or model.name,
        request.messages or (),
        GenerationParameters(),
        template=template_options(request),
    )
    conversation = with_tools(conversation, request.tools or (), request.tool_choice)
    return await Conversations(model).prompt_ids(conversation, context)
