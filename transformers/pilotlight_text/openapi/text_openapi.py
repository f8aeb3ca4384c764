"""The OpenAPI fragment of the transformer's own routes: every status and shape they answer with. Pure."""

from __future__ import annotations

from typing import Any

from pilotlight_protocol.error_bodies import OpenAIError
from pilotlight_text.openai_api.answers import ChatCompletion, Completion
from pilotlight_text.openai_api.field_tables import REFUSED
from pilotlight_text.openai_api.model_cards import ModelCard, ModelList
from pilotlight_text.openai_api.requests import ChatRequest, CompletionRequest
from pilotlight_text.openai_api.routes import PREFIXES
from pilotlight_text.openapi.split_openapi import split_openapi
from pilotlight_text.openapi.surface_openapi import surface_openapi
from pilotlight_text.pooling_api.answers import EmbeddingList, Ranking, ScoreList
from pilotlight_text.pooling_api.requests import REFUSED as NO_POOLING_FIELDS
from pilotlight_text.pooling_api.requests import EmbeddingRequest, RerankRequest, ScoreRequest
from pilotlight_text.pooling_api.routes import ROOT_PATHS
from pilotlight_text.tokenization_api.answers import Detokenized, Tokenized
from pilotlight_text.tokenization_api.requests import UNSUPPORTED as NO_TOKENIZE_FIELDS
from pilotlight_text.tokenization_api.requests import DetokenizeRequest, TokenizeRequest
from pilotlight_text.tokenization_api.routes import PREFIXES as TOKENIZER_PREFIXES
from pilotlight_text.v2_api.answers import TextAnswer, TextEvent
from pilotlight_wire.openapi_operations import (
    BODY_ERRORS,
    MODEL_PATHS,
    ModelNames,
    Operation,
    Schema,
    described,
    event_stream,
    generation_parameters,
    openai_parameters,
    struct_schemas,
)

_ERRORS = (*BODY_ERRORS, 429, 504)
_TEXT = {"type": "string", "minLength": 1}
_TEXT_REQUEST = {"$ref": "#/components/schemas/TextRequest"}
_GENERATE = tuple(
    Operation(
        *("post", f"/{verb}", verb, "the text; streamed, one TextEvent per event", answer, _ERRORS, _TEXT_REQUEST),
        media=event_stream(TextEvent),
        description="Parameters may stand in `parameters` or beside `text_input`. `stream` true streams.",
    )
    for verb, answer in (("generate", TextAnswer), ("generate_stream", None))
)
_TOKENIZER = tuple(
    Operation("post", f"/{name}", name, says, answer, _ERRORS, body)
    for name, says, answer, body in (
        ("tokenize", "the tokens of a prompt or a conversation", Tokenized, TokenizeRequest),
        ("detokenize", "the text of the tokens, special ones included", Detokenized, DetokenizeRequest),
    )
)
_COMPLETED = "the completion; with `stream`, its chunks"
_OPENAI = (
    Operation("get", "/models", "list_models", "the served models", ModelList, (503,)),
    Operation("get", "/models/{model_name}", "retrieve_model", "the model", ModelCard, (404, 503)),
    *(
        Operation("post", path, name, _COMPLETED, answer, _ERRORS, body, media=event_stream())
        for path, name, body, answer in (
            ("/completions", "create_completion", CompletionRequest, Completion),
            ("/chat/completions", "create_chat", ChatRequest, ChatCompletion),
        )
    ),
)
_POOLING = {
    name: (says, answer, body)
    for name, says, answer, body in (
        ("embeddings", "a vector per input", EmbeddingList, EmbeddingRequest),
        ("rerank", "the documents, the most relevant first", Ranking, RerankRequest),
        ("score", "how well each pair goes together", ScoreList, ScoreRequest),
    )
}
_POOLED = tuple(
    Operation("post", f"/{name}", f"create_{name}", says, answer, _ERRORS, body)
    for name, (says, answer, body) in _POOLING.items()
)
_POOLED_AT_ROOT = tuple(
    Operation("post", path, path[1:].replace("/", "_"), *_POOLING[name][:2], _ERRORS, _POOLING[name][2])
    for path, name in ROOT_PATHS.items()
)


def text_openapi(models: ModelNames) -> Schema:
    generate = described(models, MODEL_PATHS, _GENERATE)
    openai = described(models, dict(zip(PREFIXES, ("", "_short"), strict=True)), (*_OPENAI, *_POOLED), OpenAIError)
    at_root = described(models, {"": ""}, _POOLED_AT_ROOT, OpenAIError)
    tokenizer = described(
        models, dict(zip(TOKENIZER_PREFIXES, ("", "_v1", "_openai"), strict=True)), _TOKENIZER, OpenAIError
    )
    surfaces, split = surface_openapi(models), split_openapi(models)
    schemas = {
        **surfaces["components"]["schemas"],
        **split["components"]["schemas"],
        **generate["components"]["schemas"],
        **struct_schemas(TextEvent),
        **openai["components"]["schemas"],
        **tokenizer["components"]["schemas"],
        "TextRequest": _text_request(),
    }
    for name in ("EmbeddingRequest", "RerankRequest", "ScoreRequest"):
        fields = schemas[name]["properties"]
        fields["model"] = models.name
        for field in NO_POOLING_FIELDS.keys() & fields.keys():
            del fields[field]
    _narrow_tokenizer(schemas["TokenizeRequest"], models.name)
    _narrow(schemas["ChatRequest"]["properties"], schemas["CompletionRequest"]["properties"], models.name)
    paths = (
        generate["paths"] | openai["paths"] | tokenizer["paths"] | surfaces["paths"] | split["paths"] | at_root["paths"]
    )
    return {"paths": paths, "components": {"schemas": schemas}}


def _text_request() -> Schema:
    """Read field by field: parameters may stand in two places."""
    parameters = generation_parameters()
    names = ("stream", "include_stop_str_in_output", "skip_special_tokens")
    flags: Schema = {name: {"type": ["boolean", "null"]} for name in names}
    flags["truncate_prompt_tokens"] = {"type": ["integer", "null"], "minimum": -1}
    flags["truncation_side"] = {"enum": ["left", "right", None]}
    known: Schema = {**parameters["properties"], **flags}
    own = {"text_input": _TEXT, "id": {"type": ["string", "null"]}}
    own["parameters"] = {"anyOf": [parameters | {"properties": known}, {"type": "null"}]}
    return {"type": "object", "required": ["text_input"], "additionalProperties": False, "properties": own | known}


def _narrow(chat: Schema, completion: Schema, model: Schema) -> None:
    """What is checked after the structs have decoded a request."""
    known = openai_parameters()
    for fields in (chat, completion):
        for name in REFUSED.keys() & fields:
            del fields[name]
        fields |= {name: known[name] for name in known.keys() & fields if name != "logprobs"}
        fields["model"] = model
    part = _object(type={"const": "text"}, text={"type": "string"})
    content = {"anyOf": [{"type": "string"}, {"type": "array", "items": part}]}
    message = _object(role={"enum": ["system", "user", "assistant"]}, content=content)
    chat |= {
        "messages": _list(message),
        "max_completion_tokens": known["max_tokens"],
        "top_logprobs": known["logprobs"],
    }
    ids = _list({"type": "integer", "minimum": 0})
    completion |= {"prompt": {"anyOf": [_TEXT, _list(_TEXT), ids, _list(ids)]}, "logprobs": known["logprobs"]}


def _narrow_tokenizer(tokenize: Schema, model: Schema) -> None:
    fields = tokenize["properties"]
    for name in NO_TOKENIZE_FIELDS:
        del fields[name]
    fields["prompt"], fields["model"] = {"type": "string"}, model
    tokenize["oneOf"] = [{"required": ["prompt"]}, {"required": ["messages"]}]


def _object(**properties: Any) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}
