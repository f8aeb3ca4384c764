"""The shapes an error is answered in: V2's, OpenAI's, and the event that ends a broken stream. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from pilotlight_protocol.errors import PilotlightError

ErrorStyle = Literal["v2", "openai"]
_OPENAI_PREFIXES = ("/openai/", "/v1/")


def style_of_path(path: str) -> ErrorStyle:
    """What a client of that part of the tree can read; `path` is the component's own, without an ingress's prefix."""
    return "openai" if path.startswith(_OPENAI_PREFIXES) else "v2"


def error_body(error: PilotlightError, style: ErrorStyle) -> bytes:
    return msgspec.json.encode(_shape(error, style))


def error_event(error: PilotlightError, style: ErrorStyle) -> bytes:
    """The server-sent event that ends a stream which broke after its first byte."""
    shape = _shape(error, style)
    if style == "v2":
        shape["status"] = error.http_status
    return b"data: " + msgspec.json.encode(shape) + b"\n\n"


def _shape(error: PilotlightError, style: ErrorStyle) -> dict[str, Any]:
    if style == "v2":
        return {"error": error.message}
    return {
        "error": {
            "message": error.message,
            "type": error.openai_type,
            "param": error.param,
            "code": error.http_status,
        }
    }
