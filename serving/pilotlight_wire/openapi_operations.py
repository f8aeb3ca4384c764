"""How an OpenAPI document is written: an operation is a line of a table, a body's schema is made of the struct that
reads or writes it. Pure.

It is accurate enough to be tested against (schemathesis): every status a route can answer is in it, with its shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from pilotlight_protocol.error_bodies import Error
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_wire.handlers import JSON, ServedModel

Schema = dict[str, Any]
Method = Literal["get", "post", "patch", "delete"]
_PARAMETER = re.compile(r"\{(\w+)\}")
MODEL_PATHS = {"/v2/models/{model_name}": "", "/v2/models/{model_name}/versions/{version}": "_version"}

_REASONS = {
    400: "bad input; the message names what is wrong",
    401: "no key, or one that is not good",
    403: "not with this key, or not on this server",
    404: "no such model, version, thing or path",
    405: "the path does not take this method",
    408: "the body stopped arriving",
    409: "not beside what is there already",
    412: "it has been changed meanwhile",
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
class ModelNames:
    """What a document says of the `model` that a request asks for, and of the `version` in a path."""

    name: Schema
    version: Schema

    @classmethod
    def of(cls, model: ServedModel) -> ModelNames:
        return cls({"enum": list(model.names())}, {"enum": [model.version]})


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path. `answer` and `body`: the struct that is written or read as JSON, or a schema, or None.

    `statuses`: those that carry the answer. `media`: what else they may carry, by content type. `takes`: the body's
    content type. `query`, `headers`: their parameters' schemas.
    """

    method: Method
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
    headers: Mapping[str, Schema] = field(default_factory=dict)
    statuses: Sequence[int] = (200,)
    takes: str = JSON


def described(
    models: ModelNames, bases: Mapping[str, str], operations: Sequence[Operation], error: type = Error
) -> Schema:
    """`paths` and `components` of operations that stand below each of `bases` (prefix to a suffix of their names)."""
    paths: Schema = {}
    for base, suffix in bases.items():
        for operation in operations:
            path = base + operation.path
            parameters = _path_parameters(models, path)
            item = paths.setdefault(path, {"parameters": parameters} if parameters else {})
            item[operation.method] = _method(operation, operation.name + suffix, error)
    used = [shape for operation in operations for shape in (operation.answer, operation.body)]
    return {"paths": paths, "components": {"schemas": struct_schemas(error, *used)}}


def merged(*parts: Mapping[str, Any]) -> Schema:
    """`paths` and `components` of them all; of what two of them have the later one's stands."""
    paths: Schema = {}
    schemas: Schema = {}
    for part in parts:
        paths |= part.get("paths", {})
        schemas |= part.get("components", {}).get("schemas", {})
    return {"paths": paths, "components": {"schemas": schemas}}


def also_failing(paths: Mapping[str, Any], statuses: Sequence[int]) -> None:
    """Say of every operation that it fails with these too, in the shape that its errors have."""
    for item in paths.values():
        for method in item.keys() - {"parameters"}:
            responses = item[method]["responses"]
            shape = responses["500"]["content"][JSON]["schema"]
            for status in statuses:
                responses.setdefault(str(status), _failure(status, shape))


def struct_schemas(*shapes: Any) -> Schema:
    """The schemas of the structs among these, by name, with those they refer to."""
    structs = [shape for shape in shapes if shape is not None and not isinstance(shape, dict)]
    return msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")[1]


def event_stream(event: type | None = None) -> Mapping[str, Schema]:
    """A stream, described by one of its events, as OpenAPI 3.2 and the tools that test streams read it."""
    data: Schema = {"type": "string"}
    if event is not None:
        data |= {"contentMediaType": JSON, "contentSchema": schema_of(event)}
    return {"text/event-stream": {"type": "object", "required": ["data"], "properties": {"data": data}}}


def schema_of(shape: Any) -> Schema:
    return (
        shape
        if isinstance(shape, dict)
        else msgspec.json.schema_components([shape], ref_template="#/components/schemas/{name}")[0][0]
    )


def parameter(where: Literal["query", "header", "path"], name: str, schema: Schema) -> Schema:
    return {"name": name, "in": where, "schema": schema, **({"required": True} if where == "path" else {})}


def _method(operation: Operation, name: str, error: type) -> Schema:
    content = {} if operation.answer is None else {JSON: operation.answer}
    answers = {kind: {"schema": schema_of(shape)} for kind, shape in {**content, **operation.media}.items()}
    answered = {"description": operation.says, "content": answers}
    responses = {str(status): answered for status in operation.statuses} if answers else {}
    shape = schema_of(error)
    responses |= {str(status): _failure(status, shape) for status in (*operation.errors, 405, 500)}
    method: Schema = {"operationId": name, "responses": responses}
    if operation.description:
        method["description"] = operation.description
    parameters = [parameter("query", key, schema) for key, schema in operation.query.items()]
    parameters += [parameter("header", key, schema) for key, schema in operation.headers.items()]
    if parameters:
        method["parameters"] = parameters
    if operation.body is not None:
        body = {operation.takes: {"schema": schema_of(operation.body)}}
        method["requestBody"] = {"required": operation.body_required, "content": body}
    return method


def _failure(status: int, shape: Schema) -> Schema:
    failure: Schema = {"description": _REASONS[status], "content": {JSON: {"schema": shape}}}
    if status in (429, 503):
        wait = {"description": "seconds to wait", "schema": {"type": "string", "pattern": "^[0-9]+$"}}
        failure["headers"] = {"Retry-After": wait}
    return failure


def _path_parameters(models: ModelNames, path: str) -> list[Schema]:
    known = {"model_name": models.name, "version": models.version}
    return [parameter("path", name, known.get(name, {"type": "string"})) for name in _PARAMETER.findall(path)]


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
