"""The OpenAPI document of a server: the shell's V2 part merged with the model's own. Pure.

It is accurate enough to be tested against (schemathesis): every status a route can answer is in it, with its shape.
Where a struct reads or writes a body, its schema is made from that struct.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_protocol.v2 import FORMATS
from pilotlight_wire.handlers import ServedModel

_REASONS = {
    400: "bad input; the message names what is wrong",
    403: "model control is off",
    404: "no such model, version or path",
    405: "the path does not take this method",
    408: "the body stopped arriving",
    413: "the body or the prompt is too large",
    415: "a content type or coding that is not spoken here",
    429: "a quota is spent",
    500: "a bug; the log has the details",
    501: "understood, but not available on this server",
    503: "not ready, no capacity, or shutting down",
    504: "the request's time is over",
}


def error_responses(*statuses: int, schema: str = "Error") -> dict[str, Any]:
    """OpenAPI responses for these statuses; 429 and 503 carry Retry-After. `schema`: Error, or OpenAIError."""
    responses: dict[str, Any] = {}
    for status in statuses:
        responses[str(status)] = {
            "description": _REASONS[status],
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
        }
        if status in (429, 503):
            responses[str(status)]["headers"] = {
                "Retry-After": {"description": "seconds to wait", "schema": {"type": "string", "pattern": "^[0-9]+$"}}
            }
    return responses


def json_response(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"200": {"description": description, "content": {"application/json": {"schema": dict(schema)}}}}


def path_parameters(model: ServedModel, path: str) -> list[dict[str, Any]]:
    """The parameters of `{model_name}` and `{version}` in `path`."""
    known = {"model_name": list(model.names()), "version": [model.version]}
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values}}
        for name, values in known.items()
        if "{" + name + "}" in path
    ]


BODY_ERRORS = (400, 404, 408, 413, 415, 500, 503)


def struct_schemas(*structs: type) -> dict[str, Any]:
    """The schemas of the structs that decode or encode a body, by name, with those they refer to."""
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    return schemas


def generation_parameters() -> dict[str, Any]:
    """As `parse_parameters` takes them, which is wider than the struct: null means not given, a list's one item may
    stand alone."""
    schema: dict[str, Any] = struct_schemas(GenerationParameters)["GenerationParameters"]
    schema.pop("description")
    schema["properties"] = {name: _as_given(given) for name, given in schema["properties"].items()}
    return schema


def _as_given(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind != {"type": "null"}]
    bare = [{name: value for name, value in kind.items() if name != "default"} for kind in kinds]
    return {"anyOf": [*bare, *(kind["items"] for kind in bare if "items" in kind), {"type": "null"}]}


def event_stream(description: str, event_schema: Mapping[str, Any]) -> dict[str, Any]:
    """A 200 response of server-sent events whose `data` is JSON of this schema."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": dict(event_schema)}
    event = {"type": "object", "required": ["data"], "properties": {"data": data}}
    return {"200": {"description": description, "content": {"text/event-stream": {"schema": event}}}}


def openapi_document(model: ServedModel) -> dict[str, Any]:
    """The document of the shell's routes with the model's `openapi()` merged in: its paths and schemas win."""
    own = model.openapi()
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": f"Pilotlight: {model.name}",
            "version": model.version,
            "description": "The Open Inference Protocol (V2) with its generate extension.",
        },
        "paths": {**_server_paths(), **_model_paths(model), **own.get("paths", {})},
        "components": {"schemas": {**_schemas(), **own.get("components", {}).get("schemas", {})}},
    }
    return document


def _get(operation: str, responses: dict[str, Any], parameters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {"get": {"operationId": operation, "responses": {**responses, **error_responses(405, 500)}}}
    if parameters:
        item["parameters"] = parameters
    return item


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _flag(name: str) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: {"type": "boolean"}}}


def _server_paths() -> dict[str, Any]:
    ready = {**json_response("the model answers", _flag("ready")), **error_responses(503)}
    strings = {"type": "array", "items": {"type": "string"}}
    return {
        "/": _get("live", json_response("alive", {"type": "object", "properties": {"status": {"const": "alive"}}})),
        "/v2": _get("server_metadata", json_response("the server's metadata", _ref("ServerMetadata"))),
        "/v2/health/live": _get("server_live", json_response("the process answers", _flag("live"))),
        "/v2/health/ready": _get("server_ready", ready),
        "/v2/models": _get(
            "models",
            json_response("the served names", {"type": "object", "properties": {"models": strings}}),
        ),
        "/metrics": _get(
            "metrics",
            {"200": {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}},
        ),
        "/openapi.json": _get("openapi", json_response("this document", {"type": "object"})),
        "/v2/repository/index": {
            "post": {
                "operationId": "repository_index",
                "requestBody": {
                    "required": False,
                    "content": {
                        "application/json": {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}
                    },
                },
                "responses": {
                    **json_response("the models and their state", {"type": "array", "items": _ref("ModelIndex")}),
                    **error_responses(400, 405, 408, 413, 415, 500),
                },
            }
        },
    }


def _model_paths(model: ServedModel) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for prefix, suffix in (("/v2/models/{model_name}", ""), ("/v2/models/{model_name}/versions/{version}", "_version")):
        parameters = path_parameters(model, prefix)
        paths[prefix] = _get(
            "model_metadata" + suffix,
            {**json_response("the model's metadata", _ref("ModelMetadata")), **error_responses(404)},
            parameters,
        )
        paths[prefix + "/ready"] = _get(
            "model_ready" + suffix,
            {
                **json_response(
                    "the model answers",
                    {"type": "object", "properties": {"name": {"type": "string"}, "ready": {"const": True}}},
                ),
                **error_responses(404, 503),
            },
            parameters,
        )
        paths[prefix + "/infer"] = {
            "parameters": parameters,
            "post": {
                "operationId": "infer" + suffix,
                "description": "JSON, or JSON followed by binary tensors with Inference-Header-Content-Length.",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _ref("InferRequest")}},
                },
                "responses": {
                    "200": {
                        "description": "the output tensors; binary ones follow the JSON",
                        "content": {
                            "application/json": {"schema": _ref("InferResponse")},
                            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                        },
                    },
                    **error_responses(405, *BODY_ERRORS),
                },
            },
        }
    for verb in ("load", "unload"):
        path = "/v2/repository/models/{model_name}/" + verb
        paths[path] = {
            "parameters": [
                {
                    "name": "model_name",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "enum": [model.name]},
                }
            ],
            "post": {
                "operationId": verb,
                "responses": {
                    **json_response(
                        "done", {"type": "object", "properties": {"name": {"type": "string"}, verb: {"const": True}}}
                    ),
                    **error_responses(403, 405, *BODY_ERRORS, 501),
                },
            },
        }
    return paths


def _schemas() -> dict[str, Any]:
    tensor_metadata = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"enum": list(FORMATS)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
        },
    }
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"enum": list(FORMATS)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "parameters": {"type": "object"},
            "data": {"type": "array"},
        },
    }
    strings = {"type": "array", "items": {"type": "string"}}
    return {
        "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
        "GenerationParameters": generation_parameters(),
        "ServerMetadata": {
            "type": "object",
            "required": ["name", "version", "extensions"],
            "properties": {"name": {"type": "string"}, "version": {"type": "string"}, "extensions": strings},
        },
        "ModelMetadata": {
            "type": "object",
            "required": ["name", "versions", "platform", "inputs", "outputs"],
            "properties": {
                "name": {"type": "string"},
                "versions": strings,
                "platform": {"type": "string"},
                "inputs": {"type": "array", "items": tensor_metadata},
                "outputs": {"type": "array", "items": tensor_metadata},
            },
        },
        "ModelIndex": {
            "type": "object",
            "required": ["name", "version", "state", "reason"],
            "properties": {
                "name": {"type": "string"},
                "version": {"type": "string"},
                "state": {"enum": ["READY", "UNAVAILABLE"]},
                "reason": {"type": "string"},
            },
        },
        "InferRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": {"type": ["string", "null"]},
                "parameters": {"type": "object"},
                "inputs": {"type": "array", "items": tensor, "minItems": 1},
                "outputs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                    },
                },
            },
        },
        "InferResponse": {
            "type": "object",
            "required": ["model_name", "model_version", "outputs"],
            "properties": {
                "id": {"type": "string"},
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "parameters": {"type": "object"},
                "outputs": {"type": "array", "items": tensor},
            },
        },
    }
