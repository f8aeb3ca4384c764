"""OpenAI's request bodies with vLLM's extra fields: which there are, and which of them this server cannot do.

Pure. Every field of both is here: done, or in one of `field_tables`. `sampling` says what they stand for.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import INT32_MAX, MAX_LOGPROBS
from pilotlight_protocol.json_bodies import invalid_json
from pilotlight_text.ignored_fields import UnknownFields
from pilotlight_text.openai_api.field_tables import REFUSED, asks_for_something
from pilotlight_wire.handlers import RequestContext
from pilotlight_wire.hop_headers import REQUEST_ID

MAX_PROMPTS = 256

Number = int | float | None
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
TokenId = Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)]
_Json = dict[str, Any]
T = TypeVar("T")


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Any = None


class _Sampling(msgspec.Struct, kw_only=True):
    """What both kinds of request share: OpenAI's fields, then vLLM's, then those of `field_tables`."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Number = None
    max_tokens: Number = None
    temperature: Number = None
    top_p: Number = None
    seed: Number = None
    stop: str | list[str] | None = None
    presence_penalty: Number = None
    frequency_penalty: Number = None
    logit_bias: dict[str, Number] | None = None
    response_format: Any = None

    top_k: Number = None
    min_p: Number = None
    min_tokens: Number = None
    repetition_penalty: Number = None
    ignore_eos: bool | None = None
    stop_token_ids: int | list[int] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int, msgspec.Meta(ge=-1, le=INT32_MAX)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    prompt_logprobs: Number = None
    logprob_token_ids: list[int] | None = None
    repetition_detection: _Json | None = None
    stream_interval: Number = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    request_id: str | None = None
    priority: Number = None
    cache_salt: str | None = None
    add_special_tokens: bool | None = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_json_object: Any = None

    ec_transfer_params: Any = None
    kv_transfer_params: Any = None
    length_penalty: Any = None
    logits_processors: Any = None
    mm_payload: Any = None
    return_mm_kwargs: Any = None
    return_token_offsets: Any = None
    routed_experts_prompt_start: Any = None
    session_id: Any = None
    spaces_between_special_tokens: Any = None
    thinking_token_budget: Any = None
    use_beam_search: Any = None
    user: Any = None
    vllm_xargs: Any = None
    watermarking: Any = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def usage_in_every_chunk(self) -> bool:
        """vLLM's `continuous_usage_stats`, which counts with `include_usage` only."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def hides_special_tokens(self) -> bool:
        return self.skip_special_tokens is not False


class ChatRequest(_Sampling, kw_only=True):
    messages: list[_Json]
    max_completion_tokens: Number = None
    logprobs: bool | None = None
    top_logprobs: Number = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: bool | None = None
    chat_template_kwargs: _Json | None = None
    documents: list[_Json] | None = None
    reasoning_effort: ReasoningEffort | None = None
    tools: list[_Json] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    include_reasoning: bool | None = None
    modalities: list[str] | None = None
    return_prompt_text: bool | None = None

    audio: Any = None
    chat_template: Any = None
    function_call: Any = None
    functions: Any = None
    media_io_kwargs: Any = None
    metadata: Any = None
    mm_processor_kwargs: Any = None
    moderation: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class CompletionRequest(_Sampling, kw_only=True):
    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: Number = None
    echo: bool | None = None
    best_of: Number = None

    prompt_embeds: Any = None
    suffix: Any = None


class _StrictStreamOptions(StreamOptions, forbid_unknown_fields=True):
    pass


class _StrictChat(ChatRequest, kw_only=True, forbid_unknown_fields=True):
    stream_options: _StrictStreamOptions | None = None


class _StrictCompletion(CompletionRequest, kw_only=True, forbid_unknown_fields=True):
    stream_options: _StrictStreamOptions | None = None


_NESTED = {"stream_options": StreamOptions}
CHAT_FIELDS: UnknownFields[ChatRequest] = UnknownFields(ChatRequest, _StrictChat, _NESTED)
COMPLETION_FIELDS: UnknownFields[CompletionRequest] = UnknownFields(CompletionRequest, _StrictCompletion, _NESTED)

_CHAT_REFUSED = tuple(name for name in REFUSED if name in ChatRequest.__struct_fields__)
_COMPLETION_REFUSED = tuple(name for name in REFUSED if name in CompletionRequest.__struct_fields__)

_chat_decoder = msgspec.json.Decoder(ChatRequest)
_completion_decoder = msgspec.json.Decoder(CompletionRequest)


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises InvalidInput: what is wrong and, as `param`, where (`messages[0].role`)."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or _missing_field(message)
        where = f"'{param}': " if param else ""
        raise InvalidInput(f"{where}{message[:1].lower()}{message[1:]}", param=param or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_json(body, error) from None


def _missing_field(message: str) -> str:
    return message.rsplit("`", 2)[-2] if "missing required field" in message else ""


def read_chat_request(body: bytes) -> tuple[ChatRequest, tuple[str, ...]]:
    """The request and the names in it that nobody knows.

    Raises InvalidInput with `param`, also for what is understood but cannot be done.
    """
    known = CHAT_FIELDS.known(body)
    request = known or decode_body(_chat_decoder, body)
    _refuse(request, _CHAT_REFUSED)
    if request.modalities is not None and request.modalities != ["text"]:
        raise unsupported("modalities", "this server generates text only")
    check_prompt_end(begins=request.add_generation_prompt, continues=request.continue_final_message)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidInput("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")
    if not 0 <= (request.top_logprobs or 0) <= MAX_LOGPROBS:
        raise InvalidInput(f"'top_logprobs' must be 0 to {MAX_LOGPROBS}", param="top_logprobs")
    if not request.messages:
        raise InvalidInput("'messages' is empty: send at least one message", param="messages")
    return request, () if known else CHAT_FIELDS.names(body)


def read_completion_request(body: bytes) -> tuple[CompletionRequest, tuple[str, ...]]:
    """As `read_chat_request`."""
    known = COMPLETION_FIELDS.known(body)
    request = known or decode_body(_completion_decoder, body)
    _refuse(request, _COMPLETION_REFUSED)
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise unsupported("best_of", "candidates beyond 'n' are not generated")
    return request, () if known else COMPLETION_FIELDS.names(body)


def _refuse(request: _Sampling, names: Sequence[str]) -> None:
    for name, value in zip(names, attrgetter(*names)(request), strict=True):
        if value is not None and asks_for_something(name, value):
            raise unsupported(name, REFUSED[name])
    if request.stream_options is not None and not request.stream:
        raise InvalidInput("'stream_options' needs 'stream' to be true", param="stream_options")
    if request.stream and request.prompt_logprobs is not None:
        raise unsupported("prompt_logprobs", "they come with whole answers only; leave 'stream' out")


def check_prompt_end(*, begins: bool | None, continues: bool | None) -> None:
    """A prompt ends with the beginning of an answer or in the middle of one. Raises InvalidInput."""
    if begins and continues:
        raise InvalidInput(
            "set only one of 'add_generation_prompt' and 'continue_final_message'", param="continue_final_message"
        )


def unsupported(param: str, reason: str) -> InvalidInput:
    return InvalidInput(f"'{param}' is not supported: {reason}", param=param)


def answer_id(prefix: str, request: _Sampling, context: RequestContext) -> str:
    """Named after the request: by its `x-request-id`, else by the body's `request_id` (vLLM's order)."""
    given = None if REQUEST_ID in context.headers else request.request_id
    return f"{prefix}-{given or context.request_id}"


def prompts_of(prompt: str | Sequence[str | int | Sequence[int]]) -> list[str | list[int]]:
    """OpenAI's four spellings (a string, strings, token ids, lists of token ids) as a list of prompts."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise InvalidInput("'prompt' is empty: send at least one prompt", param="prompt")
    if all(isinstance(item, int) for item in prompt):
        return [list(prompt)]  # type: ignore[arg-type]
    if len(prompt) > MAX_PROMPTS:
        raise InvalidInput(f"'prompt' has {len(prompt)} prompts; at most {MAX_PROMPTS} are taken", param="prompt")
    if all(isinstance(item, str) for item in prompt) or all(isinstance(item, list) for item in prompt):
        return list(prompt)  # type: ignore[arg-type]
    raise InvalidInput("'prompt' mixes strings and token ids; send one kind", param="prompt")
