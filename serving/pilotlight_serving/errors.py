"""The shell's own errors on top of the protocol's."""

from __future__ import annotations

from pilotlight_protocol.errors import InternalError, ModelNotFound, PilotlightError
from pilotlight_wire.handlers import ServedModel


class MethodNotAllowed(PilotlightError):
    http_status, grpc_code, openai_type = 405, 12, "invalid_request_error"


class RouteNotFound(PilotlightError):
    """There is nothing at this path."""

    http_status, grpc_code, openai_type = 404, 5, "invalid_request_error"


def bug() -> InternalError:
    """What a client is told of an exception that is not a PilotlightError: nothing but that it is logged."""
    return InternalError("the server failed on this request; its log has the details under the x-request-id")


def no_such_model(model: ServedModel, model_name: str, version: str) -> ModelNotFound:
    """What a client is told that asks for a model, or a version of it, which is not served here."""
    if model.serves(model_name):
        why = f"model '{model_name}' has no version '{version}', only '{model.version}'"
    else:
        why = f"there is no model '{model_name}' here; this server has {', '.join(model.names())}"
    return ModelNotFound(why, param="model")
