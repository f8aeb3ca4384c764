"""The OpenAPI document of a server: the shell's V2 part, written by hand, merged with the model's own. Pure.

It is accurate enough to be tested against (schemathesis): every status a route can answer is in it, with its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotlight_protocol.generation import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    MAX_STOP_STRING_CHARS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
)
from pilotlight_protocol.v2 import DTYPES
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

_INT32_MAX = 2**31 - 1
_TOKEN_ID = {"type": "integer", "minimum": 0, "maximum": _INT32_MAX}
_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_STRING_CHARS}


def _integer(minimum: int, maximum: int = _INT32_MAX) -> dict[str, Any]:
    return {"type": ["integer", "null"], "minimum": minimum, "maximum": maximum}


def _number(**bounds: float) -> dict[str, Any]:
    return {"type": ["number", "null"], **bounds}


# As `pilotlight_protocol.generation.parse_parameters` takes them: null means not given, a list of one may stand alone.
GENERATION_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "max_tokens": _integer(1),
        "min_tokens": _integer(0),
        "temperature": _number(minimum=0, maximum=100),
        "top_p": _number(exclusiveMinimum=0, maximum=1),
        "top_k": _integer(-1),
        "min_p": _number(minimum=0, maximum=1),
        "seed": _integer(-(2**63) + 1, 2**63 - 1),
        "stop": {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOP_STRINGS}, {"type": "null"}]},
        "stop_token_ids": {
            "anyOf": [
                _TOKEN_ID,
                {"type": "array", "items": _TOKEN_ID, "maxItems": MAX_STOP_TOKEN_IDS},
                {"type": "null"},
            ]
        },
        "repetition_penalty": _number(exclusiveMinimum=0, maximum=100),
        "presence_penalty": _number(minimum=-2, maximum=2),
        "frequency_penalty": _number(minimum=-2, maximum=2),
        "logprobs": _integer(0, MAX_LOGPROBS),
        "prompt_logprobs": _integer(0, MAX_LOGPROBS),
        "n": _integer(1, MAX_CHOICES),
        "ignore_eos": {"type": ["boolean", "null"]},
        "priority": _integer(-_INT32_MAX),
        "cache_salt": {"type": ["string", "null"], "minLength": 1, "maxLength": 256},
    },
}


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
            "datatype": {"enum": list(DTYPES)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
        },
    }
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"enum": list(DTYPES)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "parameters": {"type": "object"},
            "data": {"type": "array"},
        },
    }
    strings = {"type": "array", "items": {"type": "string"}}
    return {
        "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
        "GenerationParameters": GENERATION_PARAMETERS,
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
