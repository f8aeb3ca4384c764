"""The OpenAPI document of a server: the shell's V2 part merged with the model's own. Pure.

It is accurate enough to be tested against (schemathesis): every status a route can answer is in it, with its shape.
Where a struct reads or writes a body, its schema is made from that struct.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        responses[str(status)] = {"description": _REASONS[status], **content(ref(schema))}
        if status in (429, 503):
            responses[str(status)]["headers"] = {
                "Retry-After": {"description": "seconds to wait", "schema": {"type": "string", "pattern": "^[0-9]+$"}}
            }
    return responses


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def an_object(required: str = "", /, **properties: Any) -> dict[str, Any]:
    """`required`: names of properties, all of them where none are given."""
    return {"type": "object", "required": required.split() or list(properties), "properties": properties}


def content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": dict(schema)}}}


def json_response(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"200": {"description": description, **content(schema)}}


def post(operation: str, responses: Mapping[str, Any], body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    said: dict[str, Any] = {"operationId": operation, "responses": dict(responses)}
    return {"post": said if body is None else said | {"requestBody": {"required": True, **content(body)}}}


def versioned(model: ServedModel) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """The path of the model without and with its version, what operations are called there, and its parameters."""
    for path, suffix in (("/v2/models/{model_name}", ""), ("/v2/models/{model_name}/versions/{version}", "_version")):
        yield path, suffix, path_parameters(model, path)


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
    return {"200": {"description": description, "content": {"text/event-stream": {"schema": an_object(data=data)}}}}


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


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_FREE = {"type": "object"}


def _get(operation: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"operationId": operation, "responses": {**responses, **error_responses(405, 500)}}}


def _flag(name: str) -> dict[str, Any]:
    return an_object(**{name: {"type": "boolean"}})


def _server_paths() -> dict[str, Any]:
    text = {"200": {"description": "Prometheus text", "content": {"text/plain": {"schema": _TEXT}}}}
    index = {
        **json_response("the models and their state", {"type": "array", "items": ref("ModelIndex")}),
        **error_responses(400, 405, 408, 413, 415, 500),
    }
    listed = post("repository_index", index, {"type": "object", "properties": {"ready": {"type": "boolean"}}})
    listed["post"]["requestBody"]["required"] = False
    return {
        "/": _get("live", json_response("alive", an_object(status={"const": "alive"}))),
        "/v2": _get("server_metadata", json_response("the server's metadata", ref("ServerMetadata"))),
        "/v2/health/live": _get("server_live", json_response("the process answers", _flag("live"))),
        "/v2/health/ready": _get(
            "server_ready", {**json_response("the model answers", _flag("ready")), **error_responses(503)}
        ),
        "/v2/models": _get("models", json_response("the served names", an_object(models=_TEXTS))),
        "/metrics": _get("metrics", text),
        "/openapi.json": _get("openapi", json_response("this document", _FREE)),
        "/v2/repository/index": listed,
    }


def _model_paths(model: ServedModel) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for path, suffix, parameters in versioned(model):
        metadata = {**json_response("the model's metadata", ref("ModelMetadata")), **error_responses(404)}
        ready = json_response("the model answers", an_object(name=_TEXT, ready={"const": True}))
        answers = json_response("the output tensors; binary ones follow the JSON", ref("InferResponse"))
        answers["200"]["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
        infer = post("infer" + suffix, {**answers, **error_responses(405, *BODY_ERRORS)}, ref("InferRequest"))
        infer["post"]["description"] = "JSON, or JSON followed by binary tensors with Inference-Header-Content-Length."
        paths[path] = _get("model_metadata" + suffix, metadata) | {"parameters": parameters}
        ready = _get("model_ready" + suffix, {**ready, **error_responses(404, 503)})
        paths[path + "/ready"] = ready | {"parameters": parameters}
        paths[path + "/infer"] = infer | {"parameters": parameters}
    name = {"name": "model_name", "in": "path", "required": True, "schema": {"type": "string", "enum": [model.name]}}
    for verb in ("load", "unload"):
        done = json_response("done", an_object(name=_TEXT, **{verb: {"const": True}}))
        done |= error_responses(403, 405, *BODY_ERRORS, 501)
        paths["/v2/repository/models/{model_name}/" + verb] = {"parameters": [name], **post(verb, done)}
    return paths


def _tensor(least_dimension: int, **more: Any) -> dict[str, Any]:
    shape = {"type": "array", "items": {"type": "integer", "minimum": least_dimension}}
    return an_object("name datatype shape", name=_TEXT, datatype={"enum": list(FORMATS)}, shape=shape, **more)


def _schemas() -> dict[str, Any]:
    described = {"type": "array", "items": _tensor(-1)}
    tensors = {"type": "array", "items": _tensor(0, parameters=_FREE, data={"type": "array"})}
    return {
        "Error": an_object(error=_TEXT),
        "GenerationParameters": generation_parameters(),
        "ServerMetadata": an_object(name=_TEXT, version=_TEXT, extensions=_TEXTS),
        "ModelMetadata": an_object(name=_TEXT, versions=_TEXTS, platform=_TEXT, inputs=described, outputs=described),
        "ModelIndex": an_object(name=_TEXT, version=_TEXT, state={"enum": ["READY", "UNAVAILABLE"]}, reason=_TEXT),
        "InferRequest": an_object(
            "inputs",
            id={"type": ["string", "null"]},
            parameters=_FREE,
            inputs=tensors | {"minItems": 1},
            outputs={"type": "array", "items": an_object("name", name=_TEXT, parameters=_FREE)},
        ),
        "InferResponse": an_object(
            "model_name model_version outputs",
            id=_TEXT,
            model_name=_TEXT,
            model_version=_TEXT,
            parameters=_FREE,
            outputs=tensors,
        ),
    }
