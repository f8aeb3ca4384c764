"""The bodies of derender, whole and chunk by chunk, and the state that a client carries between chunks.

Source: vLLM 0.32, `DerenderChatRequest`, `DerenderChatStreamRequest`, `DerenderStreamState`, and completions' likewise.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.tokens_api import GeneratedTokens, TokenId
from pilotlight_text.openai_api.requests import decode_body

MAX_CHOICES = 128
MAX_RESPONSES = 256


def _nothing() -> msgspec.Raw:
    return msgspec.Raw(b"null")


class StreamState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """All tokens of the choice so far, in the pieces in which they came, and what has been told of it."""

    output_token_ids: list[TokenId] = []
    output_chunk_lens: list[Annotated[int, msgspec.Meta(gt=0)]] = []
    role_sent: bool = False
    tools_streamed: bool = False
    last_tool_call_ids: list[str] = []


class DerenderChat(msgspec.Struct, kw_only=True):
    """`chat_request`: the request that was rendered. Streamed, `generate_chunk` stands for `generate_response`."""

    stream: bool = False
    model: str | None = None
    generate_response: GeneratedTokens | None = None
    generate_chunk: GeneratedTokens | None = None
    stream_state: StreamState | None = None
    prompt_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    prompt_token_ids: list[TokenId] | None = None
    chat_request: msgspec.Raw = msgspec.field(default_factory=_nothing)


class DerenderCompletion(msgspec.Struct, kw_only=True):
    """`generate_responses`: one per prompt. `prompt_tokens` and `prompt_token_ids` are lists of as many then."""

    stream: bool = False
    model: str | None = None
    generate_responses: list[GeneratedTokens] | None = None
    generate_chunk: GeneratedTokens | None = None
    stream_state: StreamState | None = None
    prompt_tokens: Any = None
    prompt_token_ids: Any = None
    completion_request: msgspec.Raw = msgspec.field(default_factory=_nothing)


_chats = msgspec.json.Decoder(DerenderChat)
_completions = msgspec.json.Decoder(DerenderCompletion)


def read_derender_chat(body: bytes) -> DerenderChat:
    """Raises InvalidInput."""
    request = decode_body(_chats, body)
    needed = "generate_chunk" if request.stream else "generate_response"
    answer: GeneratedTokens | None = getattr(request, needed)
    if answer is None:
        raise InvalidInput(f"'{needed}' is missing", param=needed)
    _check(answer, needed, streamed=request.stream)
    _check_state(request.stream_state)
    return request


def read_derender_completion(body: bytes) -> DerenderCompletion:
    """Raises InvalidInput."""
    request = decode_body(_completions, body)
    _check_state(request.stream_state)
    if request.stream:
        if request.generate_chunk is None:
            raise InvalidInput("'generate_chunk' is missing", param="generate_chunk")
        _check(request.generate_chunk, "generate_chunk", streamed=True)
        return request
    answers = request.generate_responses or []
    if not 1 <= len(answers) <= MAX_RESPONSES:
        raise InvalidInput(f"'generate_responses' must have 1 to {MAX_RESPONSES} entries", param="generate_responses")
    for answer in answers:
        _check(answer, "generate_responses", streamed=False)
    for name in ("prompt_tokens", "prompt_token_ids"):
        value = getattr(request, name)
        if value is not None and (not isinstance(value, list) or len(value) != len(answers)):
            raise InvalidInput(f"'{name}' must be a list with one entry per response", param=name)
    return request


def _check(answer: GeneratedTokens, param: str, *, streamed: bool) -> None:
    indexes = [choice.index for choice in answer.choices]
    if streamed and len(indexes) > 1:
        raise InvalidInput(f"'{param}' must have one choice at most: each has a state of its own", param=param)
    if not streamed and (not indexes or sorted(indexes) != list(range(len(indexes))) or len(indexes) > MAX_CHOICES):
        raise InvalidInput(f"'{param}' must have choices 0 to n-1, at most {MAX_CHOICES}", param=param)


def _check_state(state: StreamState | None) -> None:
    if state is not None and sum(state.output_chunk_lens) != len(state.output_token_ids):
        raise InvalidInput("'stream_state.output_chunk_lens' must sum to its tokens", param="stream_state")


def is_given(request: msgspec.Raw) -> bool:
    return bytes(request) != b"null"


def prompt_of(prompt_token_ids: Any, fallback: list[int] | None) -> list[int]:
    if prompt_token_ids is None:
        return fallback or []
    try:
        return msgspec.convert(prompt_token_ids, list[TokenId])
    except msgspec.ValidationError as error:
        raise InvalidInput(f"'prompt_token_ids': {error}", param="prompt_token_ids") from None


def count_of(prompt_tokens: Any, prompt: list[int]) -> int:
    if prompt_tokens is None:
        return len(prompt)
    if not isinstance(prompt_tokens, int) or isinstance(prompt_tokens, bool) or prompt_tokens < 0:
        raise InvalidInput("'prompt_tokens' must be a count", param="prompt_tokens")
    return prompt_tokens
