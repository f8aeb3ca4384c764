"""A whole answer of pods: read within a bound, and what it took noted."""

from __future__ import annotations

import json

import msgspec

from pilotlight_gateway.request_steps import TokenUsage
from pilotlight_protocol.errors import PayloadTooLarge
from pilotlight_wire.connection_pool import ConnectionPool
from pilotlight_wire.handlers import JSON
from pilotlight_wire.http_connection import ConnectionLost, HttpConnection, Silence

LONGEST_ANSWER_BYTES = 64 * 1024 * 1024


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Of every surface: OpenAI's chat and completions, its Responses, V2's, and Anthropic's Messages, whose prompt has
    `input_tokens` and those that it read from the cache."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None

    @property
    def cached(self) -> int:
        details = self.prompt_tokens_details or self.input_tokens_details or _Details()
        return self.cache_read_input_tokens or self.cached_tokens or details.cached_tokens or 0

    @property
    def prompt(self) -> int:
        beside = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return (self.prompt_tokens or self.input_tokens or 0) + beside


class _Answered(msgspec.Struct):
    usage: _Usage | None = None


class _Error(msgspec.Struct):
    message: str = ""


class _Refusal(msgspec.Struct):
    error: str | _Error = ""


_answers = msgspec.json.Decoder(_Answered)
_refusals = msgspec.json.Decoder(_Refusal)


async def whole(connection: HttpConnection, pool: ConnectionPool) -> bytes:
    """Raises PilotlightError."""
    body = bytearray()
    try:
        while piece := await connection.read():
            body += piece
            if len(body) > LONGEST_ANSWER_BYTES:
                raise PayloadTooLarge(
                    f"the answer is larger than {LONGEST_ANSWER_BYTES} bytes; ask for less, or stream"
                )
        if _may_be_cut(connection) and not _is_json(body):
            raise ConnectionLost(before_answer=False)
    except (ConnectionLost, Silence) as error:
        raise pool.explain(error) from error
    return bytes(body)


def _may_be_cut(connection: HttpConnection) -> bool:
    """What an error says is passed on as it is."""
    is_json = connection.headers.get("content-type", "").startswith(JSON)
    return is_json and connection.ends_by_close and connection.status < 400


def _is_json(body: bytearray) -> bool:
    try:
        json.loads(body)  # which knows the NaN that Python's servers write
    except ValueError:
        return False
    except RecursionError:
        return True
    return True


def note_usage(body: bytes, usage: TokenUsage) -> None:
    if b'"usage"' not in body:
        return
    try:
        told = _answers.decode(body).usage
    except (msgspec.MsgspecError, RecursionError):
        return
    if told is not None:
        usage.prompt_tokens += told.prompt
        usage.cached_tokens += told.cached
        usage.output_tokens += told.completion_tokens or told.output_tokens or 0


def refusal(body: bytes, status: int) -> str:
    """What an error's body says, in any surface's shape."""
    try:
        said = _refusals.decode(body).error
    except (msgspec.MsgspecError, RecursionError):
        return f"status {status}"
    return (said if isinstance(said, str) else said.message) or f"status {status}"
