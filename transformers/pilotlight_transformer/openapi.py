"""The OpenAPI fragment of the transformer's own routes: every status and shape they answer with. Pure."""

from __future__ import annotations

from typing import Any

from pilotlight_serving.openapi_document import (
    BODY_ERRORS,
    error_responses,
    generation_parameters,
    json_response,
    path_parameters,
    struct_schemas,
)
from pilotlight_text.openai_api.requests import UNSUPPORTED, ChatRequest, CompletionRequest
from pilotlight_wire.handlers import ServedModel

_PREDICTOR_ERRORS = (429, 504)
_OPENAI = "OpenAIError"
_STRING = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_REASON = {"enum": ["stop", "length"]}
_STOP_REASON = {"type": ["string", "integer", "null"]}
_NULLABLE_OBJECT = {"type": ["object", "null"]}


def openapi(model: ServedModel) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for base, suffix in (("/v2/models/{model_name}", ""), ("/v2/models/{model_name}/versions/{version}", "_version")):
        for verb in ("generate", "generate_stream"):
            paths[f"{base}/{verb}"] = _generate(model, base, verb, suffix)
    for prefix, suffix in (("/openai/v1", ""), ("/v1", "_short")):
        paths |= _openai_paths(model, prefix, suffix)
    return {"paths": paths, "components": {"schemas": _schemas(list(model.names()))}}


def _generate(model: ServedModel, base: str, verb: str, suffix: str) -> dict[str, Any]:
    whole = {"application/json": {"schema": _ref("TextAnswer")}}
    return {
        "parameters": path_parameters(model, base),
        "post": {
            "operationId": verb + suffix,
            "description": "Parameters may stand in `parameters` or beside `text_input`. `stream` true streams.",
            "requestBody": _body("TextRequest"),
            "responses": {
                "200": {
                    "description": "the text; streamed, one TextEvent per event",
                    "content": (whole if verb == "generate" else {})
                    | _events(contentMediaType="application/json", contentSchema=_ref("TextEvent")),
                },
                **error_responses(405, *BODY_ERRORS, *_PREDICTOR_ERRORS),
            },
        },
    }


def _events(**data: Any) -> dict[str, Any]:
    """A stream, described by one of its events, as OpenAPI 3.2 and the tools that test streams read it."""
    event = _object(["data"], data={"type": "string", **data})
    return {"text/event-stream": {"schema": event}}


def _openai_paths(model: ServedModel, prefix: str, suffix: str) -> dict[str, Any]:
    return {
        f"{prefix}/models": {
            "get": {
                "operationId": "list_models" + suffix,
                "responses": {
                    **json_response("the served models", _ref("OpenAIModelList")),
                    **error_responses(405, 500, 503, schema=_OPENAI),
                },
            }
        },
        f"{prefix}/models/{{model_name}}": {
            "parameters": path_parameters(model, "{model_name}"),
            "get": {
                "operationId": "retrieve_model" + suffix,
                "responses": {
                    **json_response("the model", _ref("OpenAIModel")),
                    **error_responses(404, 405, 500, 503, schema=_OPENAI),
                },
            },
        },
        f"{prefix}/completions": _completion_path("create_completion" + suffix, "CompletionRequest", "Completion"),
        f"{prefix}/chat/completions": _completion_path("create_chat" + suffix, "ChatRequest", "ChatCompletion"),
        f"{prefix}/embeddings": {
            "post": {
                "operationId": "create_embedding" + suffix,
                "requestBody": {"required": False, "content": {"application/json": {"schema": {"type": "object"}}}},
                "responses": error_responses(405, 408, 413, 415, 400, 500, 501, 503, schema=_OPENAI),
            }
        },
    }


def _completion_path(operation: str, request: str, answer: str) -> dict[str, Any]:
    return {
        "post": {
            "operationId": operation,
            "requestBody": _body(request),
            "responses": {
                "200": {
                    "description": "the completion; with `stream`, its chunks",
                    "content": {"application/json": {"schema": _ref(answer)}, **_events()},
                },
                **error_responses(405, *BODY_ERRORS, *_PREDICTOR_ERRORS, schema=_OPENAI),
            },
        }
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _body(name: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": _ref(name)}}}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _schemas(names: list[str]) -> dict[str, Any]:
    return {**_v2_schemas(), **_openai_request_schemas(names), **_openai_answer_schemas()}


def _v2_schemas() -> dict[str, Any]:
    parameters = generation_parameters()
    known = parameters["properties"]
    flags = {name: {"type": ["boolean", "null"]} for name in ("stream", "include_stop_str_in_output")}
    choice = _object(
        ["index", "text_output", "finish_reason", "stop_reason"],
        index=_COUNT,
        text_output=_STRING,
        finish_reason=_REASON,
        stop_reason=_STOP_REASON,
        logprobs={"type": "array"},
    )
    return {
        "TextRequest": {
            "type": "object",
            "required": ["text_input"],
            "additionalProperties": False,
            "properties": {
                "text_input": {"type": "string", "minLength": 1},
                "id": {"type": ["string", "null"]},
                "parameters": _nullable({**parameters, "properties": {**known, **flags}}),
                **known,
                **flags,
            },
        },
        "TextAnswer": _object(
            ["model_name", "model_version", "id", "text_output", "finish_reason", "outputs", "usage"],
            model_name=_STRING,
            model_version=_STRING,
            id=_STRING,
            text_output=_STRING,
            finish_reason=_REASON,
            outputs={"type": "array", "items": choice, "minItems": 1},
            usage=_object(
                ["prompt_tokens", "completion_tokens", "cached_tokens"],
                prompt_tokens=_COUNT,
                completion_tokens=_COUNT,
                cached_tokens=_COUNT,
            ),
            prompt_logprobs={"type": "array"},
        ),
        "TextEvent": _object(
            ["model_name", "model_version", "id", "index", "text_output", "finish_reason"],
            model_name=_STRING,
            model_version=_STRING,
            id=_STRING,
            index=_COUNT,
            text_output=_STRING,
            finish_reason={"enum": ["stop", "length", None]},
            stop_reason=_STOP_REASON,
            logprobs={"type": "array"},
            prompt_tokens=_COUNT,
            cached_tokens=_COUNT,
            prompt_logprobs={"type": "array"},
        ),
    }


def _openai_request_schemas(names: list[str]) -> dict[str, Any]:
    """The structs that decode the requests; by hand only what is checked after decoding."""
    known = generation_parameters()["properties"]
    part = _object(["type", "text"], type={"const": "text"}, text=_STRING)
    message = _object(
        ["role", "content"],
        role={"enum": ["system", "user", "assistant"]},
        content={"anyOf": [_STRING, {"type": "array", "items": part}]},
    )
    ids = _list({"type": "integer", "minimum": 0})
    text = {"type": "string", "minLength": 1}
    schemas = struct_schemas(ChatRequest, CompletionRequest)
    chat, completion = (schemas[name]["properties"] for name in ("ChatRequest", "CompletionRequest"))
    for fields in (chat, completion):
        for name in UNSUPPORTED.keys() & fields:
            del fields[name]
        fields |= {name: known[name] for name in known.keys() & fields if name != "logprobs"}
        fields["model"] = {"enum": names}
    chat |= {
        "messages": _list(message),
        "max_completion_tokens": known["max_tokens"],
        "top_logprobs": known["logprobs"],
    }
    completion |= {"prompt": {"anyOf": [text, _list(text), ids, _list(ids)]}, "logprobs": known["logprobs"]}
    return schemas


def _openai_answer_schemas() -> dict[str, Any]:
    usage = _object(
        ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"],
        prompt_tokens=_COUNT,
        completion_tokens=_COUNT,
        total_tokens=_COUNT,
        prompt_tokens_details=_object(["cached_tokens"], cached_tokens=_COUNT),
    )

    def answer(kind: str, **text: Any) -> dict[str, Any]:
        choice = _object(
            ["index", "logprobs", "finish_reason", *text],
            index=_COUNT,
            logprobs=_NULLABLE_OBJECT,
            finish_reason=_REASON,
            stop_reason=_STOP_REASON,
            **text,
        )
        return _object(
            ["id", "object", "created", "model", "choices", "usage"],
            id=_STRING,
            object={"const": kind},
            created=_COUNT,
            model=_STRING,
            choices={"type": "array", "items": choice, "minItems": 1},
            usage=usage,
        )

    message = _object(
        ["role", "content", "refusal"], role={"const": "assistant"}, content=_STRING, refusal={"type": "null"}
    )
    model = _object(
        ["id", "object", "created", "owned_by"],
        id=_STRING,
        object={"const": "model"},
        created=_COUNT,
        owned_by=_STRING,
        max_model_len=_COUNT,
    )
    error = _object(
        ["message", "type", "param", "code"],
        message=_STRING,
        type=_STRING,
        param={"type": ["string", "null"]},
        code={"type": "integer"},
    )
    return {
        "ChatCompletion": answer("chat.completion", message=message),
        "Completion": answer("text_completion", text=_STRING),
        "OpenAIModel": model,
        "OpenAIModelList": _object(
            ["object", "data"], object={"const": "list"}, data={"type": "array", "items": _ref("OpenAIModel")}
        ),
        _OPENAI: _object(["error"], error=error),
    }
