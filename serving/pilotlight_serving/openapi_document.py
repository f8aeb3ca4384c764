"""The OpenAPI document of a server: the shell's V2 part merged with the model's own. Pure.

It is accurate enough to be tested against (schemathesis): every status a route can answer is in it, with its shape. An
operation is a line of a table; the schema of a body is made from the struct that reads or writes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from pilotlight_protocol.error_bodies import Error
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_protocol.v2 import InferAnswer, InferBody
from pilotlight_serving.data_plane import ModelIndex, ServerMetadata
from pilotlight_serving.v2_routes import Alive, IndexRequest, Live, Loaded, ModelReady, Names, Ready, Unloaded
from pilotlight_wire.handlers import ModelMetadata, ServedModel

Schema = dict[str, Any]
_PARAMETER = re.compile(r"\{(\w+)\}")
MODEL_PATHS = {"/v2/models/{model_name}": "", "/v2/models/{model_name}/versions/{version}": "_version"}

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
BODY_ERRORS = (400, 404, 405, 408, 413, 415, 500, 503)


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path. `answer` and `body`: the struct that is written or read as JSON, or a schema, or None.

    `media`: what else a 200 may carry, by content type. `query`: its parameters' schemas.
    """

    method: Literal["get", "post", "delete"]
    path: str
    name: str
    says: str
    answer: Any
    errors: Sequence[int] = ()
    body: Any = None
    body_required: bool = True
    media: Mapping[str, Schema] = field(default_factory=dict)
    description: str = ""
    query: Mapping[str, Schema] = field(default_factory=dict)


def described(
    model: ServedModel, bases: Mapping[str, str], operations: Sequence[Operation], error: type = Error
) -> Schema:
    """`paths` and `components` of operations that stand below each of `bases` (prefix to a suffix of their names)."""
    paths: Schema = {}
    for base, suffix in bases.items():
        for operation in operations:
            path = base + operation.path
            parameters = _path_parameters(model, path)
            item = paths.setdefault(path, {"parameters": parameters} if parameters else {})
            item[operation.method] = _method(operation, operation.name + suffix, error)
    used = [shape for operation in operations for shape in (operation.answer, operation.body)]
    return {"paths": paths, "components": {"schemas": struct_schemas(error, *used)}}


def struct_schemas(*shapes: Any) -> Schema:
    """The schemas of the structs among these, by name, with those they refer to."""
    structs = [shape for shape in shapes if shape is not None and not isinstance(shape, dict)]
    return msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")[1]


def event_stream(event: type | None = None) -> Mapping[str, Schema]:
    """A stream, described by one of its events, as OpenAPI 3.2 and the tools that test streams read it."""
    data: Schema = {"type": "string"}
    if event is not None:
        data |= {"contentMediaType": "application/json", "contentSchema": _schema(event)}
    return {"text/event-stream": {"type": "object", "required": ["data"], "properties": {"data": data}}}


def _method(operation: Operation, name: str, error: type) -> Schema:
    content = {} if operation.answer is None else {"application/json": operation.answer}
    answers = {kind: {"schema": _schema(shape)} for kind, shape in {**content, **operation.media}.items()}
    responses = {"200": {"description": operation.says, "content": answers}} if answers else {}
    method: Schema = {"operationId": name, "responses": responses | _errors(operation.errors, error)}
    if operation.description:
        method["description"] = operation.description
    if operation.query:
        method["parameters"] = [{"name": key, "in": "query", "schema": kind} for key, kind in operation.query.items()]
    if operation.body is not None:
        body = {"application/json": {"schema": _schema(operation.body)}}
        method["requestBody"] = {"required": operation.body_required, "content": body}
    return method


def _errors(statuses: Sequence[int], error: type) -> Schema:
    wait = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "string", "pattern": "^[0-9]+$"}}}
    return {
        str(status): {
            "description": _REASONS[status],
            "content": {"application/json": {"schema": _schema(error)}},
            **({"headers": wait} if status in (429, 503) else {}),
        }
        for status in (*statuses, 405, 500)
    }


def _schema(shape: Any) -> Schema:
    return (
        shape
        if isinstance(shape, dict)
        else msgspec.json.schema_components([shape], ref_template="#/components/schemas/{name}")[0][0]
    )


def _path_parameters(model: ServedModel, path: str) -> list[Schema]:
    names = [model.name] if path.startswith("/v2/repository/") else list(model.names())
    known = {"model_name": {"enum": names}, "version": {"enum": [model.version]}}
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", **known.get(name, {})}}
        for name in _PARAMETER.findall(path)
    ]


def generation_parameters() -> Schema:
    """As `parse_parameters` takes them, which is wider than the struct: null means not given, a list's one item may
    stand alone."""
    schema: Schema = struct_schemas(GenerationParameters)["GenerationParameters"]
    schema.pop("description")
    schema["properties"] = {name: _as_given(given) for name, given in schema["properties"].items()}
    return schema


def openai_parameters() -> Schema:
    """The properties as OpenAI's routes take them: its ranges have their ends."""
    known: Schema = generation_parameters()["properties"]
    return known | {"top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1}}


def _as_given(schema: Schema) -> Schema:
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind != {"type": "null"}]
    bare = [{name: value for name, value in kind.items() if name != "default"} for kind in kinds]
    return {"anyOf": [*bare, *(kind["items"] for kind in bare if "items" in kind), {"type": "null"}]}


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
    *(
        Operation("post", f"/v2/repository/models/{{model_name}}/{verb}", verb, "done", done, (403, *BODY_ERRORS, 501))
        for verb, done in (("load", Loaded), ("unload", Unloaded))
    ),
)
_MODEL = (
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
    parts = [described(model, {"": ""}, _SERVER), described(model, MODEL_PATHS, _MODEL), model.openapi()]
    schemas = {name: shape for part in parts for name, shape in part.get("components", {}).get("schemas", {}).items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Pilotlight: {model.name}",
            "version": model.version,
            "description": "The Open Inference Protocol (V2) with its generate extension.",
        },
        "paths": {path: item for part in parts for path, item in part.get("paths", {}).items()},
        "components": {
            "schemas": struct_schemas(GenerationParameters)
            | {"GenerationParameters": generation_parameters()}
            | schemas
        },
    }
