"""The OpenAPI fragment of the surfaces beside chat: OpenAI's Responses and Anthropic's Messages. Pure."""

from __future__ import annotations

from pilotlight_protocol.error_bodies import AnthropicError, OpenAIError
from pilotlight_protocol.structured_outputs import StructuredOutputs
from pilotlight_protocol.tokens_api import GenerateTokens
from pilotlight_text.anthropic_api import requests as messages
from pilotlight_text.anthropic_api import stream_events as message_events
from pilotlight_text.anthropic_api.answers import MessageAnswer, TokenCount
from pilotlight_text.anthropic_api.routes import PREFIXES
from pilotlight_text.responses_api import requests as responses
from pilotlight_text.responses_api import stream_events as response_events
from pilotlight_text.responses_api.answers import DeletedResponse, InputItemList, InputTokenCount, Response
from pilotlight_text.responses_api.item_pages import MAX_LIMIT
from pilotlight_wire.openapi_operations import (
    BODY_ERRORS,
    ModelNames,
    Operation,
    Schema,
    described,
    event_stream,
    openai_parameters,
    struct_schemas,
)

_ERRORS = (*BODY_ERRORS, 429, 504)
_BASES = dict(zip(PREFIXES, ("", "_short"), strict=True))
_STORED = "/responses/{response_id}"
_PAGE = (
    ("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}),
    ("order", {"enum": ["asc", "desc"]}),
    ("after", {"type": "string"}),
)
_RESPONSES = (
    Operation(
        *("post", "/responses", "create_response", "the response; with `stream`, its events", Response, _ERRORS),
        body=responses.ResponsesRequest,
        media=event_stream(),
    ),
    Operation(
        *("post", "/responses/input_tokens", "count_input_tokens", "the prompt's tokens", InputTokenCount, _ERRORS),
        body=responses.ResponsesRequest,
    ),
    Operation("get", _STORED, "retrieve_response", "a stored response", Response, (400, 404)),
    Operation("delete", _STORED, "delete_response", "it is forgotten", DeletedResponse, (404,)),
    Operation(
        *("get", f"{_STORED}/input_items", "list_input_items", "the items it answered", InputItemList, (400, 404)),
        query=dict(_PAGE),
    ),
    Operation("post", f"{_STORED}/cancel", "cancel_response", "", None, (400, 404, 408, 413, 415)),
)
_MESSAGES = (
    Operation(
        *("post", "/messages", "create_message", "the message; with `stream`, its events", MessageAnswer, _ERRORS),
        body=messages.MessagesRequest,
        media=event_stream(),
    ),
    Operation(
        *("post", "/messages/count_tokens", "count_tokens", "how many tokens the prompt has", TokenCount, _ERRORS),
        body=messages.CountTokensRequest,
    ),
    Operation(
        *("post", "/messages/render", "render_message", "what a server of tokens is sent", GenerateTokens, _ERRORS),
        body={"$ref": "#/components/schemas/MessagesRequest"},
    ),
)


def surface_openapi(models: ModelNames) -> Schema:
    openai = described(models, _BASES, _RESPONSES, OpenAIError)
    anthropic = described(models, _BASES, _MESSAGES, AnthropicError)
    events = struct_schemas(
        StructuredOutputs, *response_events.StreamEvent.__subclasses__(), message_events.MessageStart
    )
    schemas = {**events, **openai["components"]["schemas"], **anthropic["components"]["schemas"]}
    _narrow(schemas["ResponsesRequest"]["properties"], responses.UNSUPPORTED, models.name)
    for name in ("MessagesRequest", "CountTokensRequest"):
        _narrow(schemas[name]["properties"], messages.UNSUPPORTED, models.name)
        schemas[name]["properties"]["messages"] = _list(_said_by("user", "assistant"))
    items = _list(_said_by("user", "assistant", "system", "developer"))
    schemas["ResponsesRequest"]["properties"]["input"] = {"anyOf": [{"type": "string"}, items]}
    return {"paths": openai["paths"] | anthropic["paths"], "components": {"schemas": schemas}}


def _narrow(fields: Schema, unsupported: dict[str, str], model: Schema) -> None:
    """What is checked after the structs have decoded a request."""
    known = openai_parameters()
    for name in unsupported.keys() & fields:
        del fields[name]
    fields |= {name: known[name] for name in known.keys() & fields}
    fields["model"] = model


def _said_by(*roles: str) -> Schema:
    properties = {"role": {"enum": list(roles)}, "content": {"type": "string"}}
    return {"type": "object", "required": ["role", "content"], "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}
