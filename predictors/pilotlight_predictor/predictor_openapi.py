"""The predictor's part of the OpenAPI document: generate, generate_stream, and what infer's tensors are. Pure."""

from __future__ import annotations

from pilotlight_predictor.token_tensors import Generated
from pilotlight_predictor.tokens_endpoint import PATH
from pilotlight_protocol.generation import GenerateBody, TokenEvent
from pilotlight_protocol.tokens_api import GeneratedTokens, GenerateTokens
from pilotlight_wire.handlers import ServedModel
from pilotlight_wire.openapi_operations import (
    BODY_ERRORS,
    MODEL_PATHS,
    ModelNames,
    Operation,
    Schema,
    described,
    event_stream,
    struct_schemas,
)

_STREAMED = "one event per delta; an error after the first is an event too"
_OPERATIONS = (
    Operation("post", "/generate", "generate", "the whole completion", Generated, BODY_ERRORS, GenerateBody),
    Operation(
        *("post", "/generate_stream", "generate_stream", _STREAMED, None, BODY_ERRORS, GenerateBody),
        media=event_stream(TokenEvent),
    ),
)
_TOKENS = (
    Operation(
        *("post", PATH, "generate_tokens", "tokens in, tokens out", GeneratedTokens, BODY_ERRORS, GenerateTokens),
        media=event_stream(GeneratedTokens),
        description="vLLM's. `sampling_params` are vLLM's too; what is not done here is refused by name.",
    ),
)


def predictor_openapi(model: ServedModel) -> Schema:
    names = ModelNames.of(model)
    document = described(names, MODEL_PATHS, _OPERATIONS)
    tokens = described(names, {"": ""}, _TOKENS)
    document["paths"] |= tokens["paths"]
    schemas = document["components"]["schemas"]
    schemas |= struct_schemas(TokenEvent) | tokens["components"]["schemas"]
    schemas["GenerateTokens"]["properties"]["model"] = {"enum": [*model.names(), None]}
    schemas["GenerateBody"]["properties"]["input_ids"]["minItems"] = 1
    schemas["GenerateBody"]["properties"]["parameters"] = {"$ref": "#/components/schemas/GenerationParameters"}
    return document
