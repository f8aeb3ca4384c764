"""POST …/render: a request of the API to what a server of tokens is sent for it. No engine is woken."""

from __future__ import annotations

import msgspec

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_protocol.tokens_api import GenerateTokens, TokensStreamOptions
from pilotlight_text.conversation.conversations import Conversations
from pilotlight_text.openai_api.chat import conversation_of
from pilotlight_text.openai_api.completions import Completions
from pilotlight_text.openai_api.requests import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    ChatRequest,
    CompletionRequest,
    answer_id,
    read_chat_request,
    read_completion_request,
)
from pilotlight_text.openai_api.sampling import completion_parameters, truncation_of
from pilotlight_text.split_api.rendered_tokens import generate_tokens
from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext

_encode = msgspec.json.Encoder().encode


async def render_chat(model: TextModel, context: RequestContext) -> Reply:
    """Raises what a chat request raises until its tokens are asked for."""
    request, ignored = read_chat_request(context.body)
    CHAT_FIELDS.note(ignored, context)
    model.require(request.model)
    asked = await Conversations(model).text_request(conversation_of(request), context)
    named = answer_id("chatcmpl", request, context)
    return Reply(_encode(_generate(model, request, named, asked.prompt_ids, asked.parameters)))


async def render_completion(model: TextModel, context: RequestContext) -> Reply:
    """One object per prompt, in a list."""
    request, ignored = read_completion_request(context.body)
    COMPLETION_FIELDS.note(ignored, context)
    model.require(request.model)
    parameters = completion_parameters(request)
    prompts = await Completions(model, lambda: 0.0).prompts(request, truncation_of(request, parameters), context)
    named = answer_id("cmpl", request, context)
    return Reply(
        _encode(
            [
                _generate(model, request, named if len(prompts) == 1 else f"{named}-{place}", prompt.ids, parameters)
                for place, prompt in enumerate(prompts)
            ]
        )
    )


def _generate(
    model: TextModel,
    request: ChatRequest | CompletionRequest,
    request_id: str,
    prompt_ids: list[int],
    parameters: GenerationParameters,
) -> GenerateTokens:
    stream = bool(request.stream)
    options = TokensStreamOptions(request.include_usage) if stream and request.stream_options else None
    rendered = generate_tokens(model, request.model, request_id, prompt_ids, parameters, stream=stream)
    if request.include_stop_str_in_output:
        rendered.sampling_params["include_stop_str_in_output"] = True
    return msgspec.structs.replace(rendered, stream_options=options)
