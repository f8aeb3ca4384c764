"""The gateway's OpenAPI document, for whoever asks: its models are those that this caller may use. Pure.

What the text API and V2 are is theirs to say; here stands what the gateway does beside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from pilotlight_gateway.jobs.job_records import ShownJob
from pilotlight_gateway.openapi import administration_operations, kept_operations
from pilotlight_gateway.surfaces import makes_tokens
from pilotlight_protocol.error_bodies import OpenAIError
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_serving.openapi_document import MODEL_OPERATIONS
from pilotlight_serving.v2_routes import Alive, Live, Names, Ready
from pilotlight_text.openapi.text_openapi import text_openapi
from pilotlight_wire.openapi_operations import (
    MODEL_PATHS,
    ModelNames,
    Operation,
    Schema,
    also_failing,
    described,
    generation_parameters,
    merged,
    parameter,
    struct_schemas,
)

MOST_NAMED = 1000
"""More models than that are not listed in it."""
_AT = {"": ""}
_MODELS = ModelNames({"$ref": "#/components/schemas/ModelName"}, {"type": "string"})
_CALLERS = (401, 403, 429, 503)
"""What any request with a caller may be answered."""
_ENDPOINTS = (*_CALLERS, 404, 409, 501, 504)
_PROBES = (
    *(Operation("get", path, name, "alive", Alive) for path, name in (("/", "alive"), ("/healthz", "healthz"))),
    Operation("get", "/v2/health/live", "server_live", "the process answers", Live),
    Operation("get", "/readyz", "readyz", "it knows of the endpoints", Ready, (503,)),
    Operation("get", "/v2/health/ready", "server_ready", "it knows of the endpoints", Ready, (503,)),
)
_PLAIN = (
    Operation(
        *("get", "/metrics", "metrics", "Prometheus text", None, (401, 403, 503)),
        media={"text/plain": {"type": "string"}},
    ),
    Operation("get", "/v2/models", "models", "the models that you may use", Names, (401, 403)),
    Operation("get", "/openapi.json", "openapi", "this document", {"type": "object"}, (401, 403)),
)
_OWN = (
    *administration_operations.ENDPOINTS,
    *administration_operations.USAGE,
    *administration_operations.ROUTES,
    *administration_operations.TENANTS,
    *kept_operations.JOBS,
)


def gateway_document(own: Collection[tuple[str, str]]) -> Schema:
    """`own`: methods and paths of the gateway's own routes that are there, of all that it may have. Its models are to
    be named yet."""
    kept = described(_MODELS, kept_operations.BASES, kept_operations.FILES_AND_BATCHES, OpenAIError)
    kept_operations.narrowed(kept["components"]["schemas"])
    of_callers = merged(described(_MODELS, _AT, _OWN, OpenAIError), kept)
    _leave(of_callers["paths"], own)
    also_failing(of_callers["paths"], _CALLERS)
    over_models = merged(described(_MODELS, MODEL_PATHS, MODEL_OPERATIONS), text_openapi(_MODELS))
    also_failing(over_models["paths"], _ENDPOINTS)
    if ("GET", "/v1/jobs") in own:
        _say_later(over_models["paths"])
    parameters = {"schemas": {"GenerationParameters": generation_parameters()}}
    document = merged(
        {"components": {"schemas": struct_schemas(GenerationParameters, ShownJob)}},
        {"components": parameters},
        over_models,
        described(_MODELS, _AT, (*_PROBES, *_PLAIN)),
        of_callers,
    )
    schemes: Schema = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    document["components"]["securitySchemes"] = schemes
    info = {
        "title": "Pilotlight",
        "version": "1",
        "description": "Every endpoint by its model's name: OpenAI's and Anthropic's routes, the Open Inference "
        "Protocol (V2), and what the gateway keeps for its tenants.",
    }
    return {"openapi": "3.1.0", "info": info, "security": [{}, {"bearer": []}, {"key": []}], **document}


def with_models(document: Schema, names: Iterable[str]) -> Schema:
    """The document for a caller who may use these."""
    known = list(names)
    name: Schema = {"type": "string", "description": "one of GET /v1/models"}
    if 0 < len(known) <= MOST_NAMED:
        name["enum"] = known
    components = document["components"]
    return {**document, "components": {**components, "schemas": {**components["schemas"], "ModelName": name}}}


def _leave(paths: dict[str, Any], own: Collection[tuple[str, str]]) -> None:
    for path, item in list(paths.items()):
        for method in item.keys() - {"parameters"}:
            if (method.upper(), path) not in own:
                del item[method]
        if not item.keys() - {"parameters"}:
            del paths[path]


def _say_later(paths: dict[str, Any]) -> None:
    """What makes tokens can be answered later."""
    accepted = {"application/json": {"schema": {"$ref": "#/components/schemas/ShownJob"}}}
    prefer = parameter("header", "Prefer", {"type": "string", "description": "`respond-async`: answered by a job"})
    for path, item in paths.items():
        if "post" in item and makes_tokens("POST", path) and "200" in item["post"]["responses"]:
            item["post"]["responses"]["202"] = {"description": "it is a job now", "content": accepted}
            item["post"].setdefault("parameters", []).append(prefer)
