"""The shell's own errors on top of the protocol's."""

from __future__ import annotations

from pilotlight_protocol.errors import InternalError, PilotlightError


class MethodNotAllowed(PilotlightError):
    http_status, grpc_code, openai_type = 405, 12, "invalid_request_error"


def bug() -> InternalError:
    """What a client is told of an exception that is not a PilotlightError: nothing but that it is logged."""
    return InternalError("the server failed on this request; its log has the details under the x-request-id")
