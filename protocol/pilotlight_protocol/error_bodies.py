"""The shapes an error is answered in: V2's, OpenAI's, and the event that ends a broken stream. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from pilotlight_protocol.errors import PilotlightError

ErrorStyle = Literal["v2", "openai"]
_OPENAI_PREFIXES = ("/openai/", "/v1/")
_OPENAI_PATHS = frozenset(("/tokenize", "/detokenize"))
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


def style_of_path(path: str) -> ErrorStyle:
    """What a client of that part of the tree can read; `path` is the component's own, without an ingress's prefix."""
    return "openai" if path.startswith(_OPENAI_PREFIXES) or path in _OPENAI_PATHS else "v2"


def error_body(error: PilotlightError, style: ErrorStyle) -> bytes:
    return msgspec.json.encode(_shape(error, style))


def error_event(error: PilotlightError, style: ErrorStyle) -> bytes:
    """The server-sent event that ends a stream which broke after its first byte."""
    shape = Error(error.message, error.http_status) if style == "v2" else _shape(error, style)
    return b"data: " + msgspec.json.encode(shape) + b"\n\n"


def _shape(error: PilotlightError, style: ErrorStyle) -> Error | OpenAIError:
    if style == "v2":
        return Error(error.message)
    return OpenAIError(OpenAIErrorDetails(error.message, error.openai_type, error.param, error.code))
