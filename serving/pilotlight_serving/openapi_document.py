"""The OpenAPI document of a server of one model: the shell's V2 part merged with the model's own. Pure."""

from __future__ import annotations

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_protocol.v2 import InferAnswer, InferBody
from pilotlight_serving.data_plane import ModelIndex, ServerMetadata
from pilotlight_serving.v2_routes import Alive, IndexRequest, Live, Loaded, ModelReady, Names, Ready, Unloaded
from pilotlight_wire.handlers import ModelMetadata, ServedModel
from pilotlight_wire.openapi_operations import (
    BODY_ERRORS,
    MODEL_PATHS,
    ModelNames,
    Operation,
    Schema,
    described,
    generation_parameters,
    merged,
    struct_schemas,
)

_TEXT = {"type": "string"}
_SERVER = (
    Operation("get", "/", "live", "alive", Alive),
    Operation("get", "/v2", "server_metadata", "the server's metadata", ServerMetadata),
    Operation("get", "/v2/health/live", "server_live", "the process answers", Live),
    Operation("get", "/v2/health/ready", "server_ready", "the model answers", Ready, (503,)),
    Operation("get", "/v2/models", "models", "the served names", Names),
    Operation("get", "/metrics", "metrics", "Prometheus text", None, media={"text/plain": _TEXT}),
    Operation("get", "/openapi.json", "openapi", "this document", {"type": "object"}),
    Operation(
        *("post", "/v2/repository/index", "repository_index", "the models and their state", list[ModelIndex]),
        errors=(400, 408, 413, 415),
        body=IndexRequest,
        body_required=False,
    ),
)
_CONTROL = tuple(
    Operation("post", f"/v2/repository/models/{{model_name}}/{verb}", verb, "done", done, (403, *BODY_ERRORS, 501))
    for verb, done in (("load", Loaded), ("unload", Unloaded))
)
MODEL_OPERATIONS = (
    Operation("get", "", "model_metadata", "the model's metadata", ModelMetadata, (404,)),
    Operation("get", "/ready", "model_ready", "the model answers", ModelReady, (404, 503)),
    Operation(
        *("post", "/infer", "infer", "the output tensors; binary ones follow the JSON", InferAnswer, BODY_ERRORS),
        body=InferBody,
        media={"application/octet-stream": {"type": "string", "format": "binary"}},
        description="JSON, or JSON followed by binary tensors with Inference-Header-Content-Length.",
    ),
)


def openapi_document(model: ServedModel) -> Schema:
    """The document of the shell's routes with the model's `openapi()` merged in: its paths and schemas win."""
    names = ModelNames.of(model)
    document = merged(
        described(names, {"": ""}, _SERVER),
        # An adapter is not loaded by itself.
        described(ModelNames({"enum": [model.name]}, names.version), {"": ""}, _CONTROL),
        described(names, MODEL_PATHS, MODEL_OPERATIONS),
        {"components": {"schemas": struct_schemas(GenerationParameters)}},
        {"components": {"schemas": {"GenerationParameters": generation_parameters()}}},
        model.openapi(),
    )
    info = {
        "title": f"Pilotlight: {model.name}",
        "version": model.version,
        "description": "The Open Inference Protocol (V2) with its generate extension.",
    }
    return {"openapi": "3.1.0", "info": info, **document}
