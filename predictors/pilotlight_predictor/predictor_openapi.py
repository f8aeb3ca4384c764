"""The predictor's part of the OpenAPI document: generate, generate_stream, and what infer's tensors are. Pure."""

from __future__ import annotations

from typing import Any

from pilotlight_protocol.generation import GenerateBody, TokenEvent
from pilotlight_serving.openapi_document import (
    BODY_ERRORS,
    error_responses,
    event_stream,
    json_response,
    post,
    ref,
    struct_schemas,
    versioned,
)
from pilotlight_wire.handlers import ServedModel


def predictor_openapi(model: ServedModel) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for path, suffix, parameters in versioned(model):
        for verb in ("generate", "generate_stream"):
            responses = {**_answer(verb), **error_responses(405, *BODY_ERRORS)}
            paths[f"{path}/{verb}"] = {"parameters": parameters, **post(verb + suffix, responses, ref("Generate"))}
    return {"paths": paths, "components": {"schemas": _schemas()}}


def _answer(verb: str) -> dict[str, Any]:
    if verb == "generate":
        return json_response("the whole completion", ref("Generated"))
    return event_stream("one event per delta; an error after the first is an event too", ref("TokenEvent"))


def _schemas() -> dict[str, Any]:
    """Generated: its outputs are what the events of a stream carry, and the first of them is also flat."""
    schemas = struct_schemas(GenerateBody, TokenEvent)
    schemas["Generate"] = schemas.pop("GenerateBody")
    schemas["Generate"]["properties"]["input_ids"]["minItems"] = 1
    schemas["Generate"]["properties"]["parameters"] = ref("GenerationParameters")
    event = schemas["TokenEvent"]["properties"]

    def part(required: str, optional: str = "", **own: Any) -> dict[str, Any]:
        names = required.split()
        fields = {name: event[name] for name in (*names, *optional.split()) if name in event}
        return {"type": "object", "required": names, "properties": fields | own}

    output = part("index output_ids finish_reason stop_reason", "logprobs")
    schemas["Generated"] = part(
        "model_name model_version id outputs usage output_ids finish_reason",
        "prompt_logprobs",
        outputs={"type": "array", "items": output},
        usage=part("prompt_tokens completion_tokens cached_tokens", completion_tokens={"type": "integer"}),
    )
    return schemas
