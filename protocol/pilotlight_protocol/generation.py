"""What to generate and what comes back: request parameters, token deltas, and the JSON both travel in.

Responsible for the parameter names, their ranges and the messages that name the one that is wrong, and for the bodies
and events of generate and generate_stream. It must not know about HTTP, tensors or an engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.json_bodies import UNREADABLE, invalid_json
from pilotlight_protocol.structured_outputs import StructuredOutputs

FinishReason = Literal["stop", "length", "abort"]

MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 256
MAX_STOP_TOKEN_IDS = 128
MAX_LOGPROBS = 20
MAX_LOGPROB_TOKEN_IDS = 128
MAX_LOGIT_BIASES = 1024
MAX_BAD_WORDS = 128
MAX_BAD_WORD_CHARS = 256
MAX_BAD_WORD_TOKENS = 1024
MAX_CHOICES = 128
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

GREEDY_BELOW = 1e-5
"""vLLM's SamplingParams takes a temperature below this for greedy."""

_Int32 = Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)]
_TokenIds = Annotated[list[_Int32], msgspec.Meta(min_length=1)]
_StopString = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STOP_STRING_CHARS)]
_BadWord = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_BAD_WORD_CHARS)]
_BadWordIds = Annotated[list[_Int32], msgspec.Meta(min_length=1, max_length=MAX_BAD_WORD_TOKENS)]


class RepetitionDetection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ends an output that repeats a pattern of up to `max_pattern_size` tokens `min_count` times (vLLM's)."""

    max_pattern_size: Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)] = 0
    min_pattern_size: Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)] = 0
    min_count: Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)] = 0


class GenerationParameters(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """Request-level `parameters` of V2 (design.md §4.1); ranges are vLLM's `SamplingParams`.

    None means: the model's `generation_config.json` decides, then vLLM's default. `max_tokens` None means: up to the
    context length or the server's limit. `stop` and `bad_words` (strings) are honoured by the transformer; a predictor,
    which sees tokens only, refuses them. `logit_bias`: token id to what is added to its logit.
    """

    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=INT32_MAX)] | None = None
    min_tokens: _Int32 = 0
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=INT32_MAX)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-INT64_MAX - 1, le=INT64_MAX)] | None = None
    stop: Annotated[list[_StopString], msgspec.Meta(max_length=MAX_STOP_STRINGS)] = msgspec.field(default_factory=list)
    stop_token_ids: Annotated[list[_Int32], msgspec.Meta(max_length=MAX_STOP_TOKEN_IDS)] = msgspec.field(
        default_factory=list
    )
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    prompt_logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] = 1
    ignore_eos: bool = False
    priority: Annotated[int, msgspec.Meta(ge=-INT32_MAX, le=INT32_MAX)] = 0
    cache_salt: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None
    structured_outputs: StructuredOutputs | None = None
    logit_bias: (
        Annotated[
            dict[_Int32, Annotated[float, msgspec.Meta(ge=-100, le=100)]], msgspec.Meta(max_length=MAX_LOGIT_BIASES)
        ]
        | None
    ) = None
    allowed_token_ids: _TokenIds | None = None
    bad_words: Annotated[list[_BadWord], msgspec.Meta(max_length=MAX_BAD_WORDS)] = msgspec.field(default_factory=list)
    bad_words_token_ids: Annotated[list[_BadWordIds], msgspec.Meta(max_length=2 * MAX_BAD_WORDS)] = msgspec.field(
        default_factory=list
    )
    logprob_token_ids: Annotated[_TokenIds, msgspec.Meta(max_length=MAX_LOGPROB_TOKEN_IDS)] | None = None
    repetition_detection: RepetitionDetection | None = None
    stream_interval: Annotated[int, msgspec.Meta(ge=1, le=INT32_MAX)] | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the request itself says so; None leaves it to the model."""
        return self.temperature is not None and self.temperature < GREEDY_BELOW


_LIST_FIELDS = frozenset({"stop", "stop_token_ids", "bad_words", "allowed_token_ids", "logprob_token_ids"})
_TEXT_LISTS = frozenset({"stop", "bad_words"})
_JSON_FIELDS = frozenset({"logit_bias", "bad_words_token_ids", "repetition_detection", "structured_outputs"})
_INT_FIELDS = frozenset(
    {"max_tokens", "min_tokens", "top_k", "seed", "logprobs", "prompt_logprobs", "n", "priority", "stream_interval"}
    | (_LIST_FIELDS - _TEXT_LISTS)
)


def parse_parameters(raw: Mapping[str, Any] | None) -> GenerationParameters:
    """Check V2's `parameters` and return them typed.

    A lone `stop` string or stop id becomes a list; a whole-numbered float is taken for an integer field (gRPC and
    JavaScript clients send them); a JSON-encoded list or object is taken where gRPC has no such type. An unknown name,
    a wrong type or a value out of range raises InvalidInput that names the parameter.
    """
    if not raw:
        return _DEFAULTS
    values: dict[str, Any] = {}
    for name, given in raw.items():
        value = given
        if value is None:
            continue
        if name in _LIST_FIELDS:
            value = _as_list(name, value)
        elif name in _JSON_FIELDS:
            value = _decoded(name, value)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise InvalidInput(f"parameter '{name}' must be a finite number", param=name)
            if name in _INT_FIELDS and value.is_integer():
                value = int(value)
        values[name] = value
    try:
        parameters = msgspec.convert(values, GenerationParameters, str_keys=True)
    except msgspec.ValidationError as error:
        raise _explain(error) from None
    except ValueError as error:
        raise InvalidInput(f"a parameter is no number, text or list: {error}") from None
    return _normal(parameters)


def _normal(parameters: GenerationParameters) -> GenerationParameters:
    """What stands for the same is written the same. Raises InvalidInput for fields that contradict each other."""
    if parameters.top_k == 0:
        parameters = msgspec.structs.replace(parameters, top_k=-1)
    if parameters.seed == -1:  # vLLM's word for none
        parameters = msgspec.structs.replace(parameters, seed=None)
    if parameters.max_tokens is not None and parameters.min_tokens > parameters.max_tokens:
        raise InvalidInput("parameter 'min_tokens' must not be larger than 'max_tokens'", param="min_tokens")
    if parameters.logprob_token_ids is not None and parameters.logprobs is None:
        raise InvalidInput("parameter 'logprob_token_ids' needs 'logprobs'", param="logprob_token_ids")
    detection = parameters.repetition_detection
    if detection is not None and detection.max_pattern_size == 0:
        return msgspec.structs.replace(parameters, repetition_detection=None)
    if detection is not None and (detection.min_count < 2 or detection.min_pattern_size > detection.max_pattern_size):
        raise InvalidInput(
            "parameter 'repetition_detection' needs 'min_count' of at least 2 and a 'min_pattern_size' that is not "
            "larger than 'max_pattern_size'",
            param="repetition_detection",
        )
    return parameters


def _as_list(name: str, value: Any) -> Any:
    if isinstance(value, str) and name not in _TEXT_LISTS:
        try:
            value = msgspec.json.decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise InvalidInput(f"parameter '{name}' must be a list of token ids", param=name) from None
    elif isinstance(value, str) and value.startswith("["):
        try:
            decoded = msgspec.json.decode(value, type=list[str])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            decoded = [value]
        value = decoded
    return value if isinstance(value, list) else [value]


def _decoded(name: str, value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            value = None
    if not isinstance(value, dict | list | msgspec.Struct):
        raise InvalidInput(f"parameter '{name}' must be an object or a list, or its JSON text", param=name)
    return value


def _explain(error: msgspec.ValidationError) -> InvalidInput:
    text = str(error)
    message, _, path = text.replace("`key` in ", "").partition(" - at `$.")
    name = path.rstrip("`").split("[")[0] or None
    if name is None and "unknown field" in text:
        name = text.rsplit("`", 2)[-2]
        known = ", ".join(GenerationParameters.__struct_fields__)
        return InvalidInput(f"unknown parameter '{name}'; known parameters: {known}", param=name)
    if name is None:
        return InvalidInput(message)
    return InvalidInput(f"parameter '{name}': {message[:1].lower()}{message[1:]}", param=name.split(".")[0])


_DEFAULTS = GenerationParameters()


REPEATED = "repetition_detected"
"""vLLM's stop reason of an output that `repetition_detection` has ended."""


class TokenLogprob(msgspec.Struct, omit_defaults=True):
    """One token's log-probability (natural log) and the most likely alternatives as [token id, logprob] pairs.

    `rank`: its place among all tokens, from 1; 0 where nobody said.
    """

    token_id: int
    logprob: float
    top: list[tuple[int, float]] = msgspec.field(default_factory=list)
    rank: int = 0


class TokenDelta(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """New tokens of one choice of one request, as the engine emits them; the last delta of a choice has a reason.

    `prompt_tokens`, `cached_tokens` and `prompt_logprobs` are on the first delta of choice 0 (else -1, None);
    `prefill_s`, from the scheduler's first pick of the request to its first token, on the first delta of all (else -1).
    `stop_reason`: the stop token, or REPEATED; then, too, the last token is part of the output.
    """

    index: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprob] | None = None
    prompt_tokens: int = -1
    cached_tokens: int = -1
    prompt_logprobs: list[TokenLogprob | None] | None = None
    prefill_s: float = -1.0


class TokenEvent(msgspec.Struct, omit_defaults=True):
    """One server-sent event of the predictor's generate_stream; `error` and `status` end a broken stream."""

    model_name: str = ""
    model_version: str = ""
    id: str = ""
    index: int = 0
    output_ids: list[int] = msgspec.field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprob] | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    error: str | None = None
    status: int | None = None


class GenerateBody(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON of generate and generate_stream. `input_ids`: int[seq]."""

    input_ids: list[int]
    id: str | None = None
    parameters: dict[str, Any] = {}


_generate_bodies = msgspec.json.Decoder(GenerateBody)


def decode_generate(body: bytes) -> GenerateBody:
    """Raises InvalidInput."""
    try:
        return _generate_bodies.decode(body)
    except UNREADABLE as error:
        raise invalid_json(body, error, "a generate request") from None


_encode = msgspec.json.encode
_PLAIN_END = b',"finish_reason":null}\n\n'


class EventFormatter:
    """Deltas of one request to TokenEvents: the hot path, once per engine step and request.

    The constant head of an event is formatted once per choice; a plain delta then costs two joins of bytes. What is
    rare (log-probabilities, a finish) is encoded by msgspec.
    """

    def __init__(self, model_name: str, model_version: str, request_id: str, choices: int) -> None:
        head = {"model_name": model_name, "model_version": model_version, "id": request_id}
        opening = b"data: " + _encode(head)[:-1]
        self._heads = [opening + b',"index":%d,"output_ids":' % index for index in range(choices)]

    def events(self, deltas: Sequence[TokenDelta]) -> bytes:
        """One event per delta, in one chunk."""
        if len(deltas) == 1:
            return self._event(deltas[0])
        return b"".join([self._event(delta) for delta in deltas])

    def end(self) -> bytes:
        """What follows the last event: nothing."""
        return b""

    def _event(self, delta: TokenDelta) -> bytes:
        ids = delta.token_ids
        tokens = b"[%d]" % ids[0] if len(ids) == 1 else b"[%s]" % ",".join(map(str, ids)).encode()
        head = self._heads[delta.index] + tokens
        if delta.finish_reason is None and delta.logprobs is None and delta.prompt_tokens < 0:
            return head + _PLAIN_END
        rest: list[bytes] = [head, b',"finish_reason":', _encode(delta.finish_reason)]
        if delta.finish_reason is not None:
            rest += [b',"stop_reason":', _encode(delta.stop_reason)]
        if delta.logprobs is not None:
            rest += [b',"logprobs":', _encode(delta.logprobs)]
        if delta.prompt_tokens >= 0:
            rest.append(b',"prompt_tokens":%d,"cached_tokens":%d' % (delta.prompt_tokens, max(0, delta.cached_tokens)))
        if delta.prompt_logprobs is not None:
            rest += [b',"prompt_logprobs":', _encode(delta.prompt_logprobs)]
        rest.append(b"}\n\n")
        return b"".join(rest)
