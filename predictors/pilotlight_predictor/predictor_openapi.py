"""The predictor's part of the OpenAPI document: generate, generate_stream, and what infer's tensors are. Pure."""

from __future__ import annotations

from typing import Any

from pilotlight_serving.openapi_document import (
    BODY_ERRORS,
    error_responses,
    event_stream,
    json_response,
    path_parameters,
)
from pilotlight_wire.handlers import ServedModel

_TOKEN = {"type": "integer", "minimum": 0, "maximum": 2147483647}
_TOKENS = {"type": "array", "items": _TOKEN}
_REASON = {"enum": ["stop", "length", "abort", None]}
_LOGPROBS = {
    "type": "array",
    "items": {
        "type": ["object", "null"],
        "required": ["token_id", "logprob"],
        "properties": {
            "token_id": _TOKEN,
            "logprob": {"type": "number"},
            "top": {
                "type": "array",
                "description": "pairs of token id and logprob",
                "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
            },
        },
    },
}


def predictor_openapi(model: ServedModel) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for prefix, suffix in (("/v2/models/{model_name}", ""), ("/v2/models/{model_name}/versions/{version}", "_version")):
        for verb in ("generate", "generate_stream"):
            paths[f"{prefix}/{verb}"] = {
                "parameters": path_parameters(model, prefix),
                "post": {
                    "operationId": verb + suffix,
                    "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Generate")}}},
                    "responses": {**_answer(verb), **error_responses(405, *BODY_ERRORS)},
                },
            }
    return {"paths": paths, "components": {"schemas": _schemas()}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(verb: str) -> dict[str, Any]:
    if verb == "generate":
        return json_response("the whole completion", _ref("Generated"))
    return event_stream("one event per delta; an error after the first is an event too", _ref("TokenEvent"))


def _schemas() -> dict[str, Any]:
    return {
        "Generate": {
            "type": "object",
            "required": ["input_ids"],
            "additionalProperties": False,
            "properties": {
                "id": {"type": ["string", "null"]},
                "input_ids": {**_TOKENS, "minItems": 1},
                "parameters": _ref("GenerationParameters"),
            },
            "examples": [{"input_ids": [1, 2, 3], "parameters": {"max_tokens": 8, "temperature": 0}}],
        },
        "Generated": {
            "type": "object",
            "required": ["model_name", "model_version", "id", "outputs", "usage", "output_ids", "finish_reason"],
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "output_ids": _TOKENS,
                "finish_reason": _REASON,
                "prompt_logprobs": _LOGPROBS,
                "outputs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["index", "output_ids", "finish_reason", "stop_reason"],
                        "properties": {
                            "index": {"type": "integer"},
                            "output_ids": _TOKENS,
                            "finish_reason": _REASON,
                            "stop_reason": {"type": ["integer", "null"]},
                            "logprobs": _LOGPROBS,
                        },
                    },
                },
                "usage": {
                    "type": "object",
                    "required": ["prompt_tokens", "completion_tokens", "cached_tokens"],
                    "properties": {
                        name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
                    },
                },
            },
        },
        "TokenEvent": {
            "type": "object",
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "index": {"type": "integer"},
                "output_ids": _TOKENS,
                "finish_reason": _REASON,
                "stop_reason": {"type": ["integer", "null"]},
                "logprobs": _LOGPROBS,
                "prompt_logprobs": _LOGPROBS,
                "prompt_tokens": {"type": "integer"},
                "cached_tokens": {"type": "integer"},
                "error": {"type": "string"},
                "status": {"type": "integer"},
            },
        },
    }
