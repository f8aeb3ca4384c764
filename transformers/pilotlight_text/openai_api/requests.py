"""OpenAI's request bodies: their fields, what of them this server cannot do, and the parameters they stand for.

Pure. Fields that change nothing here (`user`, `metadata`, `store`, …) are ignored, as OpenAI's clients send them
freely; fields that ask for something else than they would get are refused by name. vLLM's extra parameters are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import INT32_MAX, MAX_LOGPROBS, GenerationParameters, parse_parameters
from pilotlight_protocol.json_bodies import invalid_json

MAX_PROMPTS = 256
COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for /completions; /chat/completions has none."""

Number = int | float | None
TokenId = Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)]
_Json = dict[str, Any]
T = TypeVar("T")


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Sampling(msgspec.Struct, kw_only=True):
    """What both kinds of request share. The second half is vLLM's."""

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
    logit_bias: _Json | None = None
    response_format: _Json | None = None

    top_k: Number = None
    min_p: Number = None
    min_tokens: Number = None
    repetition_penalty: Number = None
    ignore_eos: bool | None = None
    stop_token_ids: int | list[int] | None = None
    include_stop_str_in_output: bool | None = None
    priority: Number = None
    cache_salt: str | None = None
    add_special_tokens: bool | None = None
    use_beam_search: bool | None = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    prompt_logprobs: Any = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatRequest(_Sampling, kw_only=True):
    messages: list[_Json]
    max_completion_tokens: Number = None
    logprobs: bool | None = None
    top_logprobs: Number = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: _Json | None = None
    chat_template: Any = None
    tools: list[_Json] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    include_reasoning: bool | None = None
    functions: Any = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None


class CompletionRequest(_Sampling, kw_only=True):
    prompt: str | list[str | TokenId | list[TokenId]]
    logprobs: Number = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Number = None


_chat_decoder = msgspec.json.Decoder(ChatRequest)
_completion_decoder = msgspec.json.Decoder(CompletionRequest)

_SHARED = (
    *("n", "temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty", "top_k", "min_p"),
    *("min_tokens", "repetition_penalty", "ignore_eos", "stop_token_ids", "priority", "cache_salt"),
)
UNSUPPORTED = {
    "logit_bias": "token biases are not applied here",
    "use_beam_search": "beam search is not available",
    "structured_outputs": "structured outputs are not available",
    "guided_json": "structured outputs are not available",
    "guided_regex": "structured outputs are not available",
    "guided_choice": "structured outputs are not available",
    "guided_grammar": "structured outputs are not available",
    "prompt_logprobs": "use /v1/completions with 'echo' and 'logprobs', or the V2 routes",
    "chat_template": "a template from a client is never run; the model's own is used",
    "functions": "send 'tools' instead, its successor",
    "function_call": "send 'tool_choice' instead, its successor",
    "audio": "this server generates text only",
    "suffix": "inserting before a suffix is not available",
}


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


def read_chat_request(body: bytes) -> ChatRequest:
    """Raises InvalidInput with `param`, also for what is understood but cannot be done."""
    request = decode_body(_chat_decoder, body)
    _refuse_unsupported(request)
    if request.modalities is not None and request.modalities != ["text"]:
        raise _unsupported("modalities", "this server generates text only")
    if request.add_generation_prompt and request.continue_final_message:
        raise InvalidInput(
            "set only one of 'add_generation_prompt' and 'continue_final_message'", param="continue_final_message"
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidInput("'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")
    if not 0 <= (request.top_logprobs or 0) <= MAX_LOGPROBS:
        raise InvalidInput(f"'top_logprobs' must be 0 to {MAX_LOGPROBS}", param="top_logprobs")
    if not request.messages:
        raise InvalidInput("'messages' is empty: send at least one message", param="messages")
    return request


def read_completion_request(body: bytes) -> CompletionRequest:
    """Raises InvalidInput with `param`, also for what is understood but cannot be done."""
    request = decode_body(_completion_decoder, body)
    _refuse_unsupported(request)
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise _unsupported("best_of", "candidates beyond 'n' are not generated")
    return request


def _refuse_unsupported(request: _Sampling) -> None:
    for name, reason in UNSUPPORTED.items():
        if getattr(request, name, None):
            raise _unsupported(name, reason)
    if request.response_format and request.response_format.get("type") != "text":
        raise _unsupported("response_format", "only {'type': 'text'} is available")
    if request.stream_options is not None and not request.stream:
        raise InvalidInput("'stream_options' needs 'stream' to be true", param="stream_options")


def _unsupported(param: str, reason: str) -> InvalidInput:
    return InvalidInput(f"'{param}' is not supported: {reason}", param=param)


def chat_parameters(request: ChatRequest) -> GenerationParameters:
    max_tokens = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    values = _shared(request) | {"max_tokens": max_tokens}
    if request.logprobs:
        values["logprobs"] = request.top_logprobs or 0
    return parse_parameters(values)


def completion_parameters(request: CompletionRequest) -> GenerationParameters:
    """`max_tokens` 0 (score the prompt, with `echo`) becomes 1 here; `only_echo` tells the caller to drop the token."""
    max_tokens = COMPLETION_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    values = _shared(request) | {"max_tokens": 1 if only_echo(request) else max_tokens, "logprobs": request.logprobs}
    if request.echo and request.logprobs is not None:
        values["prompt_logprobs"] = request.logprobs
    return parse_parameters(values)


def only_echo(request: CompletionRequest) -> bool:
    return bool(request.echo) and request.max_tokens == 0


def _shared(request: _Sampling) -> dict[str, Any]:
    return {name: getattr(request, name) for name in _SHARED}


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
