"""The OpenAPI fragment of the transformer's own routes: every status and shape they answer with. Pure."""

from __future__ import annotations

from typing import Any

from pilotlight_serving.openapi_document import (
    BODY_ERRORS,
    an_object,
    error_responses,
    generation_parameters,
    json_response,
    path_parameters,
    post,
    ref,
    struct_schemas,
    versioned,
)
from pilotlight_text.openai_api.answers import ChatCompletion, Completion, ModelList, OpenAIError
from pilotlight_text.openai_api.requests import UNSUPPORTED, ChatRequest, CompletionRequest
from pilotlight_wire.handlers import ServedModel

_PREDICTOR_ERRORS = (429, 504)
_OPENAI = OpenAIError.__name__
_STRING = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_REASON = {"enum": ["stop", "length"]}
_STOP_REASON = {"type": ["string", "integer", "null"]}


def openapi(model: ServedModel) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for path, suffix, parameters in versioned(model):
        for verb in ("generate", "generate_stream"):
            paths[f"{path}/{verb}"] = {"parameters": parameters, **_generate(verb, suffix)}
    for prefix, suffix in (("/openai/v1", ""), ("/v1", "_short")):
        paths |= _openai_paths(model, prefix, suffix)
    return {"paths": paths, "components": {"schemas": _schemas(list(model.names()))}}


def _generate(verb: str, suffix: str) -> dict[str, Any]:
    answer = json_response("the text; streamed, one TextEvent per event", ref("TextAnswer"))
    events = _events(contentMediaType="application/json", contentSchema=ref("TextEvent"))
    answer["200"]["content"] = (answer["200"]["content"] if verb == "generate" else {}) | events
    responses = {**answer, **error_responses(405, *BODY_ERRORS, *_PREDICTOR_ERRORS)}
    item = post(verb + suffix, responses, ref("TextRequest"))
    item["post"]["description"] = "Parameters may stand in `parameters` or beside `text_input`. `stream` true streams."
    return item


def _events(**data: Any) -> dict[str, Any]:
    """A stream, described by one of its events, as OpenAPI 3.2 and the tools that test streams read it."""
    return {"text/event-stream": {"schema": an_object(data={"type": "string", **data})}}


def _openai_paths(model: ServedModel, prefix: str, suffix: str) -> dict[str, Any]:
    refusals = error_responses(405, 408, 413, 415, 400, 500, 501, 503, schema=_OPENAI)
    embeddings = post("create_embedding" + suffix, refusals, {"type": "object"})
    embeddings["post"]["requestBody"]["required"] = False
    return {
        f"{prefix}/models": {
            "get": {
                "operationId": "list_models" + suffix,
                "responses": {
                    **json_response("the served models", ref("ModelList")),
                    **error_responses(405, 500, 503, schema=_OPENAI),
                },
            }
        },
        f"{prefix}/models/{{model_name}}": {
            "parameters": path_parameters(model, "{model_name}"),
            "get": {
                "operationId": "retrieve_model" + suffix,
                "responses": {
                    **json_response("the model", ref("ModelCard")),
                    **error_responses(404, 405, 500, 503, schema=_OPENAI),
                },
            },
        },
        f"{prefix}/completions": _completion_path("create_completion" + suffix, "CompletionRequest", "Completion"),
        f"{prefix}/chat/completions": _completion_path("create_chat" + suffix, "ChatRequest", "ChatCompletion"),
        f"{prefix}/embeddings": embeddings,
    }


def _completion_path(operation: str, request: str, answer: str) -> dict[str, Any]:
    said = json_response("the completion; with `stream`, its chunks", ref(answer))
    said["200"]["content"] |= _events()
    errors = error_responses(405, *BODY_ERRORS, *_PREDICTOR_ERRORS, schema=_OPENAI)
    return post(operation, {**said, **errors}, ref(request))


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _schemas(names: list[str]) -> dict[str, Any]:
    return {
        **_v2_schemas(),
        **_openai_request_schemas(names),
        **struct_schemas(ChatCompletion, Completion, ModelList, OpenAIError),
    }


def _v2_schemas() -> dict[str, Any]:
    parameters = generation_parameters()
    known = parameters["properties"]
    flags = {name: {"type": ["boolean", "null"]} for name in ("stream", "include_stop_str_in_output")}
    head = {"model_name": _STRING, "model_version": _STRING, "id": _STRING}
    logprobs, prompt_logprobs = {"type": "array"}, {"type": "array"}
    choice = an_object(
        "index text_output finish_reason stop_reason",
        index=_COUNT,
        text_output=_STRING,
        finish_reason=_REASON,
        stop_reason=_STOP_REASON,
        logprobs=logprobs,
    )
    usage = an_object(prompt_tokens=_COUNT, completion_tokens=_COUNT, cached_tokens=_COUNT)
    request = an_object(
        "text_input",
        text_input={"type": "string", "minLength": 1},
        id={"type": ["string", "null"]},
        parameters=_nullable({**parameters, "properties": {**known, **flags}}),
        **known,
        **flags,
    )
    return {
        "TextRequest": request | {"additionalProperties": False},
        "TextAnswer": an_object(
            "model_name model_version id text_output finish_reason outputs usage",
            **head,
            text_output=_STRING,
            finish_reason=_REASON,
            outputs=_list(choice),
            usage=usage,
            prompt_logprobs=prompt_logprobs,
        ),
        "TextEvent": an_object(
            "model_name model_version id index text_output finish_reason",
            **head,
            index=_COUNT,
            text_output=_STRING,
            finish_reason={"enum": ["stop", "length", None]},
            stop_reason=_STOP_REASON,
            logprobs=logprobs,
            prompt_tokens=_COUNT,
            cached_tokens=_COUNT,
            prompt_logprobs=prompt_logprobs,
        ),
    }


def _openai_request_schemas(names: list[str]) -> dict[str, Any]:
    """The structs that decode the requests; by hand only what is checked after decoding."""
    known = generation_parameters()["properties"]
    part = an_object(type={"const": "text"}, text=_STRING)
    message = an_object(
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
