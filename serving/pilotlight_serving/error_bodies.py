"""The shapes an error is answered in: V2's, OpenAI's, and the event that ends a broken stream. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from pilotlight_protocol.errors import InternalError, PilotlightError

from pilotlight_serving.handlers import ErrorStyle


class MethodNotAllowed(PilotlightError):
    http_status, grpc_code, openai_type = 405, 12, "invalid_request_error"


def bug() -> InternalError:
    """What a client is told of an exception that is not a PilotlightError: nothing but that it is logged."""
    return InternalError("the server failed on this request; its log has the details under the x-request-id")


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
