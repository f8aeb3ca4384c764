"""The shapes an error is answered in: V2's, OpenAI's, Anthropic's, and the event that ends a broken stream. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from pilotlight_protocol.errors import PilotlightError

ErrorStyle = Literal["v2", "openai", "anthropic"]
_OPENAI_PREFIXES = ("/openai/", "/v1/")
_ANTHROPIC_PREFIXES = ("/openai/v1/messages", "/v1/messages")
_OPENAI_PATHS = frozenset(("/tokenize", "/detokenize", "/rerank", "/v2/rerank", "/score"))
"""vLLM's routes outside of OpenAI's tree."""


class Error(msgspec.Struct):
    """V2's; a stream that broke has its `status` beside it."""

    error: str
    status: int | msgspec.UnsetType = msgspec.UNSET


class OpenAIErrorDetails(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    error: OpenAIErrorDetails


class AnthropicErrorDetails(msgspec.Struct):
    type: str
    message: str


class AnthropicError(msgspec.Struct):
    """`request_id` is in the headers."""

    error: AnthropicErrorDetails
    type: Literal["error"] = "error"


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Else `invalid_request_error` below 500 and `api_error` from there on."""


def style_of_path(path: str) -> ErrorStyle:
    """What a client of that part of the tree can read; `path` is the component's own, without an ingress's prefix."""
    if path.startswith(_ANTHROPIC_PREFIXES):
        return "anthropic"
    return "openai" if path.startswith(_OPENAI_PREFIXES) or path in _OPENAI_PATHS else "v2"


def error_body(error: PilotlightError, style: ErrorStyle) -> bytes:
    return msgspec.json.encode(_shape(error, style))


def error_event(error: PilotlightError, style: ErrorStyle) -> bytes:
    """The server-sent event that ends a stream which broke after its first byte."""
    shape = Error(error.message, error.http_status) if style == "v2" else _shape(error, style)
    named = b"event: error\n" if style == "anthropic" else b""
    return named + b"data: " + msgspec.json.encode(shape) + b"\n\n"


def _shape(error: PilotlightError, style: ErrorStyle) -> Error | OpenAIError | AnthropicError:
    if style == "v2":
        return Error(error.message)
    if style == "anthropic":
        return AnthropicError(_anthropic_details(error))
    return OpenAIError(OpenAIErrorDetails(error.message, error.openai_type, error.param, error.code))


def _anthropic_details(error: PilotlightError) -> AnthropicErrorDetails:
    """Anthropic's clients know a conversation that is too long by its words."""
    kind = "invalid_request_error" if error.http_status < 500 else "api_error"
    told = f"prompt is too long: {error.message}" if error.code == "context_length_exceeded" else error.message
    return AnthropicErrorDetails(_ANTHROPIC_TYPES.get(error.http_status, kind), told)
