"""vLLM's "tokens in, tokens out": the bodies of /inference/v1/generate, which render writes and derender reads. Pure.

Source of names and meanings: vLLM 0.32, `entrypoints/scale_out/token_in_token_out/protocol.py` and `SamplingParams`.
Responsible for which of them are done here; what asks for something else is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters, TokenLogprob, parse_parameters
from pilotlight_protocol.json_bodies import UNREADABLE, invalid_json

TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
NO_LOGPROB = -9999.0
"""What vLLM writes for minus infinity, which JSON has not."""

_WITHOUT_EFFECT = frozenset(
    {
        *("detokenize", "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output"),
        *("output_kind", "skip_clone", "output_text_buffer_length", "flat_logprobs", "routed_experts_prompt_start"),
    }
)
"""Of text, which is made elsewhere, or of the call inside vLLM; no other token comes for them."""

_NEUTRAL: Mapping[str, Any] = {"top_k": -1, "logit_bias": {}, "extra_args": {}}
_DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""vLLM's, for what is not said: whoever rendered the request has applied the model's own, and left out what equals
these."""

_REFUSED = {
    "features": "this model reads text only",
    "content_parts": "this model reads text only",
    "kv_transfer_params": "a KV cache is not passed between servers here",
    "ec_transfer_params": "an encoder's cache is not passed between servers here",
}


class TokensStreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerateTokens(msgspec.Struct, kw_only=True):
    """One prompt, `token_ids`: int[seq]. `sampling_params` are vLLM's. What render knows of the reasoning is for an
    engine with a parser; here the constraint itself says where it begins."""

    token_ids: Annotated[list[TokenId], msgspec.Meta(min_length=1)]
    sampling_params: dict[str, Any] = {}
    request_id: str | None = None
    model: str | None = None
    stream: bool | None = None
    stream_options: TokensStreamOptions | None = None
    cache_salt: str | None = None
    priority: int = 0
    return_token_ids: bool | None = None
    output_mode: Literal["tokens", "text"] = "tokens"
    token_offsets: Any = None
    reasoning_ended: bool | None = None
    reasoning_parser_kwargs: Any = None
    features: Any = None
    content_parts: Any = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None


class CandidateLogprob(msgspec.Struct):
    token_id: TokenId
    logprob: float
    rank: int | None = None


class ChosenLogprob(msgspec.Struct, kw_only=True):
    token_id: TokenId
    logprob: float
    rank: int | None = None
    top_logprobs: list[CandidateLogprob] = []


class ChoiceLogprobs(msgspec.Struct):
    content: list[ChosenLogprob] | None = None


class TokensChoice(msgspec.Struct):
    """A choice, or, streamed, what is new of one. `token_ids` have the token that ended it."""

    index: Annotated[int, msgspec.Meta(ge=0)]
    token_ids: list[TokenId] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: ChoiceLogprobs | None = None


class TokensUsage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    total_tokens: int = 0


class GeneratedTokens(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A whole answer, or one event of a streamed one."""

    request_id: str
    choices: list[TokensChoice]
    output_mode: Literal["tokens"] = "tokens"
    model: str | None = None
    created: int | None = None
    usage: TokensUsage | None = None
    prompt_token_ids: list[TokenId] | None = None
    prompt_logprobs: Any = None


_bodies = msgspec.json.Decoder(GenerateTokens)


def decode_generate_tokens(body: bytes) -> GenerateTokens:
    """Raises InvalidInput, also for what is understood and cannot be done."""
    try:
        request = _bodies.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        param = path.rstrip("`").split("[")[0] or None
        where = f"'{param}': " if param else ""
        raise InvalidInput(f"{where}{message[:1].lower()}{message[1:]}", param=param) from None
    except UNREADABLE as error:
        raise invalid_json(body, error, "a request for tokens") from None
    for name, reason in _REFUSED.items():
        if getattr(request, name):
            raise InvalidInput(f"'{name}' is not supported: {reason}", param=name)
    if request.output_mode != "tokens":
        raise InvalidInput("'output_mode' must be 'tokens': text is made by the transformer", param="output_mode")
    return request


def parameters_of(request: GenerateTokens) -> GenerationParameters:
    """Raises InvalidInput that names the sampling parameter."""
    known = GenerationParameters.__struct_fields__
    values: dict[str, Any] = {**_DEFAULTS, "cache_salt": request.cache_salt, "priority": request.priority}
    for name, value in request.sampling_params.items():
        if value is None or name in _WITHOUT_EFFECT or value == _NEUTRAL.get(name, _bodies):
            continue
        if name not in known:
            if value in (False, 0, [], "", {}):
                continue
            raise InvalidInput(f"'sampling_params.{name}' is not supported here", param="sampling_params")
        values[name] = value
    return parse_parameters(values)


def sampling_params_of(parameters: GenerationParameters) -> dict[str, Any]:
    """The other way: what was asked for, in vLLM's names. What the model's defaults decide is left out."""
    values: dict[str, Any] = msgspec.to_builtins(parameters, str_keys=True)
    for name in ("cache_salt", "priority", "bad_words_token_ids"):
        values.pop(name, None)
    return values


def choice_logprobs(logprobs: Sequence[TokenLogprob] | None) -> ChoiceLogprobs | None:
    if logprobs is None:
        return None
    return ChoiceLogprobs(
        [
            ChosenLogprob(
                token_id=one.token_id,
                logprob=max(one.logprob, NO_LOGPROB),
                rank=one.rank or None,
                top_logprobs=[CandidateLogprob(token, max(logprob, NO_LOGPROB)) for token, logprob in one.top],
            )
            for one in logprobs
        ]
    )


def token_logprobs(logprobs: ChoiceLogprobs | None) -> list[TokenLogprob] | None:
    if logprobs is None or logprobs.content is None:
        return None
    return [
        TokenLogprob(
            one.token_id, one.logprob, [(top.token_id, top.logprob) for top in one.top_logprobs], one.rank or 0
        )
        for one in logprobs.content
    ]


def prompt_logprobs_of(prompt: Sequence[TokenLogprob | None] | None) -> list[dict[str, Any] | None] | None:
    """vLLM's shape: token id to its log-probability, per position."""
    if prompt is None:
        return None
    return [None if one is None else _candidates(one) for one in prompt]


def _candidates(one: TokenLogprob) -> dict[str, Any]:
    of_token = {one.token_id: one.logprob} | dict(one.top)
    return {
        str(token): {"logprob": max(logprob, NO_LOGPROB), "rank": one.rank or None if token == one.token_id else None}
        for token, logprob in of_token.items()
    }
