"""The body of POST /responses: its fields, what of them this server cannot do, and the parameters they stand for.

Pure. Every field of OpenAI's published request and of vLLM's is done, refused by name, or stands in `WITHOUT_EFFECT`
with the reason; a test holds this list against both.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput, PilotlightError
from pilotlight_protocol.generation import MAX_LOGPROBS, GenerationParameters
from pilotlight_protocol.structured_outputs import StructuredOutputs
from pilotlight_text.conversation.output_format import constraint, format_outputs
from pilotlight_text.ignored_fields import UnknownFields
from pilotlight_text.openai_api.requests import ReasoningEffort, decode_body, unsupported
from pilotlight_text.openai_api.sampling import openai_parameters

Number = int | float | None
Json = dict[str, Any]

LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = frozenset(
    (
        LOGPROBS,
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
        "reasoning.encrypted_content",
    )
)
"""Only the log-probabilities change an answer: of the others there is nothing to include. Reasoning is never encrypted
here, it stands in the item's `content` and may be sent back so."""


class TextOptions(msgspec.Struct):
    format: Json | None = None
    verbosity: str | None = None


class ReasoningOptions(msgspec.Struct):
    effort: ReasoningEffort | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None


class ResponsesStreamOptions(msgspec.Struct):
    include_obfuscation: bool | None = None


class ResponsesRequest(msgspec.Struct, kw_only=True):
    """The second half is vLLM's."""

    model: str
    input: str | list[Json]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] | None = None
    max_output_tokens: Number = None
    temperature: Number = None
    top_p: Number = None
    top_logprobs: Number = None
    truncation: str | None = None
    metadata: dict[str, str] | None = None
    background: bool | None = None
    background_options: Any = None
    conversation: Any = None
    prompt: Any = None
    context_management: Any = None
    moderation: Any = None
    image: Any = None
    max_tool_calls: Number = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    access_programs: Any = None

    top_k: Number = None
    min_p: Number = None
    presence_penalty: Number = None
    frequency_penalty: Number = None
    repetition_penalty: Number = None
    seed: Number = None
    stop: str | list[str] | None = None
    stop_token_ids: int | list[int] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    include_reasoning: bool | None = None
    priority: Number = None
    cache_salt: str | None = None
    chat_template_kwargs: Json | None = None
    request_id: str | None = None
    session_id: str | None = None
    logit_bias: Any = None
    structured_outputs: Any = None
    skip_special_tokens: bool | None = None
    previous_input_messages: Any = None
    enable_response_messages: bool | None = None
    media_io_kwargs: Any = None
    mm_processor_kwargs: Any = None
    mm_payload: str | None = None
    return_mm_kwargs: bool | None = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    vllm_xargs: Any = None
    watermarking: bool | None = None


UNSUPPORTED = {
    "background": "a response is made while its request is open; send the request without it",
    "background_options": "there are no background responses",
    "conversation": "conversations are not kept here; use 'previous_response_id', or send the items as 'input'",
    "prompt": "prompt templates are not kept here; send 'instructions' and 'input'",
    "context_management": "nothing is compacted here; send a shorter input",
    "moderation": "this server has no moderation model",
    "image": "this model reads text only",
    "previous_input_messages": "use 'previous_response_id', or send the items as 'input'",
    "enable_response_messages": "the rendered messages are not shown",
    "media_io_kwargs": "this model reads text only",
    "mm_processor_kwargs": "this model reads text only",
    "kv_transfer_params": "caches are not moved between engines by requests",
    "ec_transfer_params": "caches are not moved between engines by requests",
    "vllm_xargs": "no extension of the engine is loaded",
    "watermarking": "no watermark is configured",
}
WITHOUT_EFFECT = {
    "text.verbosity": "models that are served here know no such wish; say it in the instructions",
    "stream_options": "asks for padding or not; nothing is padded",
    "max_tool_calls": "bounds the calls of hosted tools, of which there are none",
    "user": "answered back",
    "safety_identifier": "answered back",
    "prompt_cache_key": "answered back; prefixes are found by their content",
    "prompt_cache_options": "prefixes are cached without being asked",
    "prompt_cache_retention": "answered back; prefixes are kept while there is room",
    "service_tier": "there is one tier",
    "access_programs": "names programs of OpenAI's",
    "request_id": "the header x-request-id names a request; an answer's id must not be guessed",
    "session_id": "routes between replicas of vLLM's",
    "mm_payload": "shapes images, of which there are none",
    "return_mm_kwargs": "shapes images, of which there are none",
}
_PARAMETERS = (
    *("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("seed", "stop", "stop_token_ids", "ignore_eos", "priority", "cache_salt", "logit_bias"),
)
_NAMES_BELOW = {"messages": "input", "max_tokens": "max_output_tokens"}
MAX_METADATA = 16

_decoder = msgspec.json.Decoder(ResponsesRequest)
RESPONSE_FIELDS: UnknownFields[ResponsesRequest] = UnknownFields(
    ResponsesRequest,
    ResponsesRequest,
    {"text": TextOptions, "reasoning": ReasoningOptions, "stream_options": ResponsesStreamOptions},
)


def read_responses_request(body: bytes) -> tuple[ResponsesRequest, tuple[str, ...]]:
    """The request, and the names in it that nobody knows. Raises InvalidInput with `param`, also for what is understood
    but cannot be done."""
    request = decode_body(_decoder, body)
    for name, reason in UNSUPPORTED.items():
        if getattr(request, name):
            raise unsupported(name, reason)
    _check_reasoning(request.reasoning)
    if request.truncation not in (None, "auto", "disabled"):
        raise InvalidInput("'truncation' must be 'auto' or 'disabled'", param="truncation")
    for place, name in enumerate(request.include or ()):
        if name not in INCLUDABLE:
            param = f"include[{place}]"
            raise InvalidInput(f"'{param}': '{name[:64]}' is none of {', '.join(sorted(INCLUDABLE))}", param=param)
    if not 0 <= (request.top_logprobs or 0) <= MAX_LOGPROBS:
        raise InvalidInput(f"'top_logprobs' must be 0 to {MAX_LOGPROBS}", param="top_logprobs")
    _check_metadata(request.metadata or {})
    return request, RESPONSE_FIELDS.names(body)


def _check_reasoning(reasoning: ReasoningOptions | None) -> None:
    if reasoning is None:
        return
    for name in ("summary", "generate_summary"):
        if getattr(reasoning, name) not in (None, "auto"):
            raise unsupported(f"reasoning.{name}", "reasoning is shown as it is, not summarized; send 'auto'")
    if reasoning.context not in (None, "auto"):
        raise unsupported("reasoning.context", "the chat template decides which reasoning of the past is shown")
    if reasoning.mode not in (None, "standard"):
        raise unsupported("reasoning.mode", "there is the standard mode only")


def _check_metadata(metadata: dict[str, str]) -> None:
    if len(metadata) > MAX_METADATA or any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()):
        raise InvalidInput(
            f"'metadata' takes {MAX_METADATA} pairs, keys of 64 and values of 512 characters", param="metadata"
        )


def in_own_words(error: PilotlightError) -> PilotlightError:
    """The error of what stands below this surface, with the names that its request has."""
    said = (error.param or "").partition("[")[0]
    if said in _NAMES_BELOW:
        error.message = error.message.replace(f"'{said}'", f"'{_NAMES_BELOW[said]}'")
        error.param = _NAMES_BELOW[said]
    return error


def wants_logprobs(request: ResponsesRequest) -> bool:
    return LOGPROBS in (request.include or ()) or bool(request.top_logprobs)


def responses_parameters(request: ResponsesRequest) -> GenerationParameters:
    values = {name: getattr(request, name) for name in _PARAMETERS}
    values["max_tokens"] = request.max_output_tokens
    if wants_logprobs(request):
        values["logprobs"] = request.top_logprobs or 0
    return msgspec.structs.replace(openai_parameters(values), structured_outputs=output_constraint(request))


def output_constraint(request: ResponsesRequest) -> StructuredOutputs | None:
    """Raises InvalidInput with `param`."""
    formatted = format_outputs(request.text.format if request.text is not None else None, "text.format")
    if request.structured_outputs is None:
        return formatted
    if formatted is not None or not isinstance(request.structured_outputs, dict):
        raise InvalidInput(
            "'structured_outputs' must be an object, and cannot go with 'text.format'", param="structured_outputs"
        )
    return constraint(request.structured_outputs, "structured_outputs")
