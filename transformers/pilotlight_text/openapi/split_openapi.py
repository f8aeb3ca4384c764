"""The OpenAPI fragment of render and derender. Pure."""

from __future__ import annotations

from pilotlight_protocol.error_bodies import OpenAIError
from pilotlight_protocol.tokens_api import GenerateTokens
from pilotlight_text.openai_api.answers import ChatCompletion, Completion
from pilotlight_text.split_api.chunk_answers import DerenderedChat, DerenderedCompletion
from pilotlight_text.split_api.requests import DerenderChat, DerenderCompletion
from pilotlight_text.split_api.routes import PREFIXES
from pilotlight_wire.openapi_operations import BODY_ERRORS, ModelNames, Operation, Schema, described, struct_schemas

_BASES = dict(zip(PREFIXES, ("", "_short"), strict=True))
_ERRORS = (*BODY_ERRORS, 429)
_RENDERED: Schema = {"$ref": "#/components/schemas/GenerateTokens"}


def _whole_or_chunk(whole: type, chunk: type) -> Schema:
    return {"anyOf": [{"$ref": f"#/components/schemas/{shape.__name__}"} for shape in (whole, chunk)]}


_OPERATIONS = (
    Operation(
        *(
            "post",
            "/chat/completions/render",
            "render_chat",
            "what a server of tokens is sent",
            GenerateTokens,
            _ERRORS,
        ),
        body={"$ref": "#/components/schemas/ChatRequest"},
    ),
    Operation(
        *("post", "/completions/render", "render_completion", "one per prompt"),
        {"type": "array", "items": _RENDERED, "minItems": 1},
        _ERRORS,
        {"$ref": "#/components/schemas/CompletionRequest"},
    ),
    Operation(
        *("post", "/responses/render", "render_response", "what a server of tokens is sent", GenerateTokens, _ERRORS),
        body={"$ref": "#/components/schemas/ResponsesRequest"},
    ),
    Operation(
        *("post", "/chat/completions/derender", "derender_chat", "the completion; with `stream`, a chunk of it"),
        _whole_or_chunk(ChatCompletion, DerenderedChat),
        _ERRORS,
        DerenderChat,
    ),
    Operation(
        *("post", "/completions/derender", "derender_completion", "the completion; with `stream`, a chunk of it"),
        _whole_or_chunk(Completion, DerenderedCompletion),
        _ERRORS,
        DerenderCompletion,
    ),
)


def split_openapi(models: ModelNames) -> Schema:
    document = described(models, _BASES, _OPERATIONS, OpenAIError)
    schemas = document["components"]["schemas"]
    schemas |= struct_schemas(DerenderedChat, DerenderedCompletion)
    for name, field in (("DerenderChat", "chat_request"), ("DerenderCompletion", "completion_request")):
        request = "ChatRequest" if field == "chat_request" else "CompletionRequest"
        told = {"anyOf": [{"$ref": f"#/components/schemas/{request}"}, {"type": "null"}]}
        schemas[name]["properties"] |= {field: told, "model": {"anyOf": [models.name, {"type": "null"}]}}
    return document
