"""The OpenAPI fragment of the transformer's own routes: every status and shape they answer with. Pure."""

from __future__ import annotations

from typing import Any

from pilotlight_serving.openapi_document import (
    BODY_ERRORS,
    GENERATION_PARAMETERS,
    error_responses,
    json_response,
    path_parameters,
)
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


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _sampling(names: list[str]) -> dict[str, Any]:
    """OpenAI's and vLLM's shared request fields; each may be null, which is the same as leaving it out."""
    known = GENERATION_PARAMETERS["properties"]
    same = (
        *("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "top_k", "min_p", "min_tokens"),
        *("repetition_penalty", "ignore_eos", "stop_token_ids", "priority", "cache_salt", "max_tokens", "n"),
    )
    return {
        "model": {"enum": names},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": _nullable(_object([], include_usage={"type": ["boolean", "null"]})),
        "stop": {"anyOf": [_STRING, known["stop"], {"type": "null"}]},
        "include_stop_str_in_output": {"type": ["boolean", "null"]},
        **{name: _nullable(known[name]) for name in same},
    }


def _schemas(names: list[str]) -> dict[str, Any]:
    return {**_v2_schemas(), **_openai_request_schemas(names), **_openai_answer_schemas()}


def _v2_schemas() -> dict[str, Any]:
    known = GENERATION_PARAMETERS["properties"]
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
                "parameters": _nullable({**GENERATION_PARAMETERS, "properties": {**known, **flags}}),
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
    known = GENERATION_PARAMETERS["properties"]
    part = _object(["type", "text"], type={"const": "text"}, text=_STRING)
    message = _object(
        ["role", "content"],
        role={"enum": ["system", "user", "assistant"]},
        content={"anyOf": [_STRING, {"type": "array", "items": part}]},
    )
    ids = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
    texts = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
    return {
        "ChatRequest": _object(
            ["model", "messages"],
            **_sampling(names),
            messages={"type": "array", "items": message, "minItems": 1},
            max_completion_tokens=_nullable(known["max_tokens"]),
            logprobs={"type": ["boolean", "null"]},
            top_logprobs=_nullable(known["logprobs"]),
            add_generation_prompt={"type": ["boolean", "null"]},
            continue_final_message={"type": ["boolean", "null"]},
            chat_template_kwargs=_NULLABLE_OBJECT,
        ),
        "CompletionRequest": _object(
            ["model", "prompt"],
            **_sampling(names),
            prompt={
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    texts,
                    ids,
                    {"type": "array", "items": ids, "minItems": 1},
                ]
            },
            logprobs=_nullable(known["logprobs"]),
            echo={"type": ["boolean", "null"]},
        ),
    }


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
