"""The predictor over REST: `/generate` for whole answers, `/generate_stream` (server-sent events) for streams.

Responsible for requests and answers of the token contract. Connections are http_connection.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, NoReturn
from urllib.parse import quote

import msgspec

from pilotlight_protocol.errors import (
    CODE_HEADER,
    PARAM_HEADER,
    PayloadTooLarge,
    PilotlightError,
    Unavailable,
    from_status,
)
from pilotlight_protocol.generation import FinishReason, GenerationParameters, TokenEvent, TokenLogprob
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenStream, WholeAnswer
from pilotlight_wire.connection_pool import ConnectionPool
from pilotlight_wire.hop_headers import ELSEWHERE, REQUEST_ID, parse_retry_after, parse_server_timing, passed_back
from pilotlight_wire.http_connection import ConnectionLost, HttpConnection, Silence
from pilotlight_wire.upstream_address import UpstreamAddress

if TYPE_CHECKING:
    from pilotlight_text.pooling_source import PooledAnswer, PoolingCall

ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
# A pod that another one's engine makes superfluous takes no requests before long; until then the next try may find it.
ELSEWHERE_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_EVENT = b"data:"

_events = msgspec.json.Decoder(TokenEvent)
_encoder = msgspec.json.Encoder()


class _Body(msgspec.Struct):
    id: str
    input_ids: list[int]
    parameters: GenerationParameters


class _Output(msgspec.Struct):
    output_ids: list[int]
    finish_reason: FinishReason
    index: int = 0
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    cached_tokens: int = 0


class _Answer(msgspec.Struct):
    outputs: list[_Output]
    usage: _Usage
    prompt_logprobs: list[TokenLogprob | None] | None = None


class _Refusal(msgspec.Struct):
    error: str


_answers = msgspec.json.Decoder(_Answer)
_refusals = msgspec.json.Decoder(_Refusal)


class _Ask(NamedTuple):
    """A request to the predictor, but for where it is."""

    model_name: str
    verb: str
    accept: bytes
    request_id: str
    metadata: Mapping[str, str]
    body: bytes


def _ask(request: TokenRequest, verb: str, accept: bytes) -> _Ask:
    body = _encoder.encode(_Body(request.request_id, request.input_ids, request.parameters))
    return _Ask(request.model_name, verb, accept, request.request_id, request.metadata, body)


class RestPredictor:
    """A TokenSource over pooled keep-alive connections."""

    def __init__(self, address: UpstreamAddress, *, connect_timeout_s: float, timeout_s: float) -> None:
        self._authority = address.authority.encode("ascii")
        self._pool = ConnectionPool(address, connect_timeout_s=connect_timeout_s, timeout_s=timeout_s)

    async def stream(self, request: TokenRequest) -> TokenStream:
        if request.whole:
            return await self._answered(request)
        connection = await self._exchange(_ask(request, "generate_stream", b"text/event-stream"))
        if connection.status != 200:
            await self._refused(connection)
        return RestTokenStream(self._pool, connection, request.parameters.n)

    async def _answered(self, request: TokenRequest) -> TokenStream:
        connection = await self._exchange(_ask(request, "generate", b"application/json"))
        if connection.status != 200:
            await self._refused(connection)
        body = await self._whole(connection)
        try:
            answer = _answers.decode(body)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"the predictor's answer is not what the contract says: {error}") from error
        return WholeAnswer(_as_events(answer), _facts(connection))

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        from pilotlight_transformer import rest_pooling  # only where a model pools

        body = rest_pooling.request_body(call)
        accept = b"application/octet-stream, application/json"
        ask = _Ask(call.model_name, "infer", accept, call.request_id, call.metadata, body)
        connection = await self._exchange(ask)
        if connection.status != 200:
            await self._refused(connection)
        return rest_pooling.read_answer(await self._whole(connection), connection.headers, call, _facts(connection))

    async def close(self) -> None:
        self._pool.close()

    async def _exchange(self, ask: _Ask) -> HttpConnection:
        """The answer of a pod that has an engine; the last try may be any pod's, which then waits for one."""
        for pause_s in ELSEWHERE_PAUSES_S:
            connection = await self._pool.exchange(self._message(ask, f"{ELSEWHERE}: 1\r\n"))
            if connection.status != 503 or ELSEWHERE not in connection.headers:
                return connection
            await self._whole(connection)
            await asyncio.sleep(pause_s)
        return await self._pool.exchange(self._message(ask))

    def _message(self, ask: _Ask, may_move: str = "") -> bytes:
        passed = "".join(f"{name}: {value}\r\n" for name, value in ask.metadata.items())
        return b"".join(
            (
                f"POST /v2/models/{quote(ask.model_name, safe='')}/{ask.verb} HTTP/1.1\r\nhost: ".encode(),
                self._authority,
                b"\r\naccept: ",
                ask.accept,
                b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(ask.body),
                f"{REQUEST_ID}: {ask.request_id}\r\n{may_move}{passed}\r\n".encode("latin-1", "replace"),
                ask.body,
            )
        )

    async def _whole(self, connection: HttpConnection) -> bytes:
        body = bytearray()
        try:
            while chunk := await connection.read():
                body += chunk
                if len(body) > ANSWER_LIMIT_BYTES:
                    raise PayloadTooLarge(f"the answer is larger than {ANSWER_LIMIT_BYTES} bytes; ask for fewer tokens")
        except (ConnectionLost, Silence) as error:
            raise self._pool.explain(error) from error
        finally:
            self._pool.release(connection)
        return bytes(body)

    async def _refused(self, connection: HttpConnection) -> NoReturn:
        """Raise the error a status other than 200 stands for, with its message and Retry-After."""
        body = await self._whole(connection)
        try:
            message = _refusals.decode(body).error
        except msgspec.MsgspecError:  # not the predictor: a proxy or an activator on the way
            message = f"the predictor's endpoint answered with status {connection.status}"
        headers = connection.headers
        param = client_param(headers.get(PARAM_HEADER))
        retry_after_s = parse_retry_after(headers.get("retry-after"))
        raise from_status(connection.status, message, retry_after_s, param, headers.get(CODE_HEADER))


class RestTokenStream:
    """Server-sent events to TokenEvents; those that came together are returned together, and before what broke behind
    them is raised: how reads were cut decides nothing."""

    def __init__(self, pool: ConnectionPool, connection: HttpConnection, choices: int) -> None:
        self.facts = _facts(connection)
        self._pool = pool
        self._connection = connection
        self._rest = b""
        self._open_choices = choices
        self._failure: PilotlightError | None = None

    async def events(self) -> list[TokenEvent]:
        if self._failure is not None:
            raise self._failure
        connection = self._connection
        while True:
            try:
                data = await connection.read()
            except (ConnectionLost, Silence) as error:
                raise self._pool.explain(error) from error
            if not data:
                if self._open_choices > 0:
                    raise Unavailable("the predictor ended its stream before the generation was complete; try again")
                return []
            events = self._parse(data)
            if events:
                return events
            if self._failure is not None:
                raise self._failure

    async def close(self) -> None:
        if self._open_choices > 0:
            self._pool.release(self._connection)
        else:
            self._pool.settle(self._connection)

    def _parse(self, data: bytes) -> list[TokenEvent]:
        if self._rest:
            data = self._rest + data
        *whole, self._rest = data.split(b"\n\n")
        events = []
        try:
            for block in whole:
                if block.startswith(_EVENT):
                    event = _events.decode(memoryview(block)[5:])
                    if event.error is not None:
                        self._failure = from_status(event.status or 500, event.error)
                        break
                    if event.finish_reason is not None:
                        self._open_choices -= 1
                    events.append(event)
        except msgspec.MsgspecError as error:
            self._failure = Unavailable(f"the predictor sent an event that is not what the contract says: {error}")
        if len(self._rest) > ANSWER_LIMIT_BYTES:
            raise Unavailable("the predictor sent an event without an end")
        return events


def client_param(param: str | None) -> str | None:
    """The parameter that the predictor refused, where the client knows it too (it has sent no `input_ids`)."""
    return param if param in GenerationParameters.__struct_fields__ or param in _OF_POOLING else None


_OF_POOLING = frozenset({"model", "dimensions", "use_activation"})


def _facts(connection: HttpConnection) -> AnswerFacts:
    headers = connection.headers
    return AnswerFacts(parse_server_timing(headers.get("server-timing", "")), passed_back(headers))


def _as_events(answer: _Answer) -> list[TokenEvent]:
    events = [
        TokenEvent(
            index=output.index,
            output_ids=output.output_ids,
            finish_reason=output.finish_reason,
            stop_reason=output.stop_reason,
            logprobs=output.logprobs,
            prompt_logprobs=output.prompt_logprobs,
        )
        for output in sorted(answer.outputs, key=lambda output: output.index)
    ]
    if events:
        events[0].prompt_tokens = answer.usage.prompt_tokens
        events[0].cached_tokens = answer.usage.cached_tokens
        events[0].prompt_logprobs = events[0].prompt_logprobs or answer.prompt_logprobs
    return events
