"""The bodies of POST /messages and /messages/count_tokens: their fields, and what of them this server cannot do.

Pure. Every field of Anthropic's published requests and of vLLM's is done, refused by name, or stands in
`WITHOUT_EFFECT` with the reason; a test holds this list against both.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_text.conversation.output_format import format_outputs
from pilotlight_text.ignored_fields import UnknownFields
from pilotlight_text.openai_api.requests import ReasoningEffort, decode_body, unsupported
from pilotlight_text.openai_api.sampling import openai_parameters

Number = int | float | None
Json = dict[str, Any]

MIN_THINKING_TOKENS = 1024


class Message(msgspec.Struct):
    role: str
    content: str | list[Json]


class Thinking(msgspec.Struct):
    type: str
    budget_tokens: Number = None
    display: str | None = None


class OutputOptions(msgspec.Struct):
    effort: ReasoningEffort | None = None
    format: Json | None = None


class CountTokensRequest(msgspec.Struct, kw_only=True):
    """What makes the prompt."""

    model: str
    messages: list[Message]
    system: str | list[Json] | None = None
    tools: list[Json] | None = None
    tool_choice: Json | None = None
    thinking: Thinking | None = None
    output_config: OutputOptions | None = None
    cache_control: Any = None
    speed: str | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None
    mcp_servers: Any = None
    context_management: Any = None
    chat_template_kwargs: Json | None = None
    mm_payload: str | None = None
    return_mm_kwargs: bool | None = None


class MessagesRequest(CountTokensRequest, kw_only=True):
    max_tokens: int | float
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Number = None
    top_p: Number = None
    top_k: Number = None
    metadata: Json | None = None
    service_tier: str | None = None
    container: Any = None
    diagnostics: Any = None
    inference_geo: str | None = None
    cache_salt: str | None = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    vllm_xargs: Any = None
    watermarking: bool | None = None


UNSUPPORTED = {
    "mcp_servers": "no tool servers are called here; send functions as 'tools'",
    "container": "no code is run here",
    "diagnostics": "an answer's headers say where its time went",
    "inference_geo": "a request runs where this server is",
    "kv_transfer_params": "caches are not moved between engines by requests",
    "ec_transfer_params": "caches are not moved between engines by requests",
    "vllm_xargs": "no extension of the engine is loaded",
    "watermarking": "no watermark is configured",
}
WITHOUT_EFFECT = {
    "thinking.budget_tokens": "a target and no bound, as Anthropic says; 'max_tokens' bounds reasoning and answer",
    "metadata": "names a user of the client's",
    "service_tier": "there is one tier",
    "cache_control": "prefixes are cached without being asked",
    "user_profile_id": "names a profile of Anthropic's",
    "workspace_id": "names a workspace of Anthropic's",
    "mm_payload": "shapes images, of which there are none",
    "return_mm_kwargs": "shapes images, of which there are none",
}

_messages = msgspec.json.Decoder(MessagesRequest)
_counted = msgspec.json.Decoder(CountTokensRequest)


MESSAGE_FIELDS: UnknownFields[MessagesRequest] = UnknownFields(
    MessagesRequest, MessagesRequest, {"thinking": Thinking, "output_config": OutputOptions}
)
COUNT_FIELDS = UnknownFields(CountTokensRequest)


def read_messages_request(body: bytes) -> tuple[MessagesRequest, tuple[str, ...]]:
    """The request, and the names in it that nobody knows. Raises InvalidInput with `param`, also for what is understood
    but cannot be done."""
    request = decode_body(_messages, body)
    _check(request)
    if request.max_tokens < 1:
        raise InvalidInput("'max_tokens' must be at least 1", param="max_tokens")
    thinking = request.thinking
    if thinking is not None and thinking.type == "enabled" and (thinking.budget_tokens or 0) >= request.max_tokens:
        raise InvalidInput("'thinking.budget_tokens' must be less than 'max_tokens'", param="thinking.budget_tokens")
    return request, MESSAGE_FIELDS.names(body)


def read_count_request(body: bytes) -> CountTokensRequest:
    """Raises InvalidInput with `param`. Fields that only make an answer may stand in the body, as clients send both."""
    request = decode_body(_counted, body)
    _check(request)
    return request


def _check(request: CountTokensRequest) -> None:
    for name, reason in UNSUPPORTED.items():
        if getattr(request, name, None):
            raise unsupported(name, reason)
    if not _keeps_all(request.context_management):
        raise unsupported("context_management", "nothing is compacted here; send fewer messages")
    if request.speed not in (None, "standard"):
        raise unsupported("speed", "there is the standard speed only")
    _check_thinking(request.thinking)
    output = request.output_config
    if output is not None and output.format and output.format.get("type") != "json_schema":
        raise InvalidInput("'output_config.format.type' must be 'json_schema'", param="output_config.format.type")


def _keeps_all(context_management: Any) -> bool:
    """Claude Code sends an edit that asks for nothing: to clear no thinking at all."""
    edits = context_management.get("edits") if isinstance(context_management, dict) else context_management
    return not edits or (
        isinstance(edits, list) and all(isinstance(edit, dict) and edit.get("keep") == "all" for edit in edits)
    )


def _check_thinking(thinking: Thinking | None) -> None:
    if thinking is None:
        return
    if thinking.type not in ("enabled", "disabled", "adaptive"):
        raise InvalidInput("'thinking.type' must be 'enabled', 'disabled' or 'adaptive'", param="thinking.type")
    if thinking.type == "enabled" and (thinking.budget_tokens or 0) < MIN_THINKING_TOKENS:
        raise InvalidInput(
            f"'thinking.budget_tokens' must be at least {MIN_THINKING_TOKENS}", param="thinking.budget_tokens"
        )
    if thinking.display not in (None, "summarized", "omitted"):
        raise InvalidInput("'thinking.display' must be 'summarized' or 'omitted'", param="thinking.display")


def messages_parameters(request: MessagesRequest) -> GenerationParameters:
    """Raises InvalidInput with `param`."""
    values = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop_sequences,
        "cache_salt": request.cache_salt,
    }
    shape = request.output_config.format if request.output_config is not None else None
    outputs = format_outputs(shape, "output_config.format")
    return msgspec.structs.replace(openai_parameters(values), structured_outputs=outputs)
