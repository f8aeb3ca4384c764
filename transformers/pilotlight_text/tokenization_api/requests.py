"""The bodies of /tokenize and /detokenize, as vLLM takes them. Pure; what cannot be done is refused by name."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import INT32_MAX
from pilotlight_text.ignored_fields import UnknownFields
from pilotlight_text.openai_api.requests import ReasoningEffort, check_prompt_end, decode_body, unsupported

MAX_DETOKENIZED = 262_144
"""Token ids of one request to /detokenize."""

TokenId = Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)]
UNSUPPORTED = {
    "chat_template": "a template from a client is never run; the model's own is used",
    "media_io_kwargs": "this server reads text only",
    "mm_processor_kwargs": "this server reads text only",
}


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """Either `prompt` or `messages`; special tokens are added to a prompt unless told otherwise, and to a conversation
    (whose template brings its own) only when asked for. What vLLM does not take here, and chat does, is read as there:
    whatever changes a chat's prompt."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    documents: list[dict[str, Any]] | None = None
    reasoning_effort: ReasoningEffort | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    tokens: list[TokenId]
    model: str | None = None


_tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeRequest)
TOKENIZE_FIELDS, DETOKENIZE_FIELDS = UnknownFields(TokenizeRequest), UnknownFields(DetokenizeRequest)
_OF_CONVERSATIONS = (
    *("add_generation_prompt", "continue_final_message", "tools", "tool_choice", "documents", "reasoning_effort"),
    "chat_template_kwargs",
)


def read_tokenize(body: bytes) -> TokenizeRequest:
    """Raises InvalidInput with `param`."""
    request = decode_body(_tokenize_decoder, body)
    for name, reason in UNSUPPORTED.items():
        if getattr(request, name):
            raise unsupported(name, reason)
    if (request.prompt is None) == (request.messages is None):
        raise InvalidInput("send one of 'prompt' and 'messages'", param="prompt")
    if request.prompt is not None:
        for name in _OF_CONVERSATIONS:
            if getattr(request, name):
                raise InvalidInput(f"'{name}' is for 'messages'; a prompt is taken as it is", param=name)
    if request.messages is not None and not request.messages:
        raise InvalidInput("'messages' is empty: send at least one message", param="messages")
    check_prompt_end(begins=request.add_generation_prompt, continues=request.continue_final_message)
    return request


def read_detokenize(body: bytes) -> DetokenizeRequest:
    """Raises InvalidInput with `param`."""
    request = decode_body(_detokenize_decoder, body)
    if len(request.tokens) > MAX_DETOKENIZED:
        raise InvalidInput(
            f"'tokens' has {len(request.tokens)} ids; at most {MAX_DETOKENIZED} are taken", param="tokens"
        )
    return request
