"""The predictor over gRPC: ModelInfer for whole answers, ModelStreamInfer for streams.

Responsible for the tensors of the token contract. What they have no place for (log-probabilities) is refused here.
KServe's `--predictor_protocol grpc-v2` asks for it; REST is the default and the cheaper wire.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import msgspec

from pilotlight_protocol.errors import (
    BY_STATUS,
    CODE_HEADER,
    PARAM_HEADER,
    DeadlineExceeded,
    NotSupported,
    PilotlightError,
    Unavailable,
    from_status,
)
from pilotlight_protocol.generation import FinishReason, GenerationParameters, TokenEvent
from pilotlight_serving.grpc_messages import ModelStreamInferResponse
from pilotlight_serving.kserve_messages import predict_v2
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenStream, WholeAnswer
from pilotlight_transformer.rest_predictor import client_param
from pilotlight_wire.hop_headers import REQUEST_ID, parse_retry_after, parse_server_timing, passed_back
from pilotlight_wire.upstream_address import UpstreamAddress

if TYPE_CHECKING:
    from pilotlight_text.pooling_source import PooledAnswer, PoolingCall

_SERVICE = "/inference.GRPCInferenceService/"
_MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
_DOUBLE_FIELD = b"\x21"
"""Tag of `double_param = 4` (fixed64) of Triton's InferParameter; KServe's lacks it, so it travels as unknown field."""

_STATUS_OF_CODE: dict[int, int] = {}
for _status, _error in BY_STATUS.items():
    _STATUS_OF_CODE.setdefault(_error.grpc_code, _status)


class GrpcPredictor:
    """A TokenSource over one multiplexed channel, made at its first use."""

    def __init__(self, address: UpstreamAddress, *, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._made: Any = None

    async def stream(self, request: TokenRequest) -> TokenStream:
        if request.whole:
            return await self._answered(request)
        message = _message(request)
        method = self._channel().stream_stream(
            _SERVICE + "ModelStreamInfer",
            request_serializer=predict_v2.ModelInferRequest.SerializeToString,
            response_deserializer=ModelStreamInferResponse.FromString,
        )
        call = method(iter([message]), metadata=_metadata(request), timeout=self._timeout_s)
        stream = GrpcTokenStream(call, request.parameters.n, len(request.input_ids))
        try:
            await stream.start()
        except BaseException:
            await stream.close()
            raise
        return stream

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        from pilotlight_text.pooling_source import PooledAnswer  # only where a model pools
        from pilotlight_transformer import grpc_pooling

        metadata = ((REQUEST_ID, call.request_id), *call.metadata.items())
        answer, trailing = await self._inferred(grpc_pooling.request_message(call), metadata)
        return PooledAnswer(grpc_pooling.vectors_of(answer, call), _facts(trailing))

    async def _inferred(self, message: Any, metadata: tuple[tuple[str, str], ...]) -> tuple[Any, Any]:
        method = self._channel().unary_unary(
            _SERVICE + "ModelInfer",
            request_serializer=predict_v2.ModelInferRequest.SerializeToString,
            response_deserializer=predict_v2.ModelInferResponse.FromString,
        )
        call = method(message, metadata=metadata, timeout=self._timeout_s)
        try:
            return await call, await call.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error

    async def _answered(self, request: TokenRequest) -> TokenStream:
        answer, trailing = await self._inferred(_message(request), _metadata(request))
        tensors = _tensors(answer)
        lengths = _int32(tensors["output_lengths"])
        width = max(lengths, default=0)
        ids = _int32(tensors["output_ids"])
        events = [
            TokenEvent(index=index, output_ids=ids[index * width : index * width + length], finish_reason=reason)
            for index, (length, reason) in enumerate(zip(lengths, _reasons(tensors), strict=True))
        ]
        events[0].prompt_tokens = len(request.input_ids)
        return WholeAnswer(events, _facts(trailing))

    async def close(self) -> None:
        if self._made is not None:
            await self._made.close()

    def _channel(self) -> Any:
        if self._made is None:
            target = f"{self._address.host}:{self._address.port}"
            options = [
                ("grpc.default_authority", self._address.authority),
                ("grpc.max_receive_message_length", _MESSAGE_LIMIT_BYTES),
                ("grpc.max_send_message_length", -1),
            ]
            if self._address.use_tls:
                self._made = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options)
            else:
                self._made = grpc.aio.insecure_channel(target, options)
        return self._made


class GrpcTokenStream:
    """ModelStreamInfer's responses to TokenEvents, one at a time."""

    def __init__(self, call: Any, choices: int, prompt_tokens: int) -> None:
        self.facts = AnswerFacts()
        self._call = call
        self._open_choices = choices
        self._prompt_tokens = prompt_tokens
        self._first: TokenEvent | None = None

    async def start(self) -> None:
        """Wait for the first event, so that a refusal is raised while the client's answer has not started."""
        self._first = await self._next()
        self._first.prompt_tokens = self._prompt_tokens
        self.facts = _facts(await self._call.initial_metadata())

    async def events(self) -> list[TokenEvent]:
        event, self._first = self._first, None
        if event is None:
            if self._open_choices == 0:
                return []
            event = await self._next()
        if event.finish_reason is not None:
            self._open_choices -= 1
        return [event]

    async def _next(self) -> TokenEvent:
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        if message is grpc.aio.EOF:
            raise Unavailable("the predictor ended its stream before the generation was complete; try again")
        answer = message.infer_response
        if message.error_message:
            status, retry_after_s = (answer.parameters[name].int64_param for name in ("status", "retry_after_s"))
            param = client_param(answer.parameters["param"].string_param)
            code = answer.parameters["code"].string_param
            raise from_status(status or 500, message.error_message, retry_after_s or None, param, code)
        tensors = _tensors(answer)
        return TokenEvent(
            index=answer.parameters["index"].int64_param,
            output_ids=_int32(tensors["output_ids"]),
            finish_reason=_reasons(tensors)[0],
        )

    async def close(self) -> None:
        self._call.cancel()


def _message(request: TokenRequest) -> Any:
    if request.parameters.logprobs is not None or request.parameters.prompt_logprobs is not None:
        raise NotSupported(
            "log-probabilities do not travel over --predictor_protocol grpc-v2; run the transformer with v2",
            param="logprobs",
        )
    if request.parameters.repetition_detection is not None:
        raise NotSupported(
            "what ended an output does not travel over --predictor_protocol grpc-v2; run the transformer with v2",
            param="repetition_detection",
        )
    message = predict_v2.ModelInferRequest(model_name=request.model_name, id=request.request_id)
    message.inputs.add(name="input_ids", datatype="INT32", shape=[1, len(request.input_ids)])
    message.raw_input_contents.append(struct.pack(f"<{len(request.input_ids)}i", *request.input_ids))
    _add_parameters(message.parameters, request.parameters)
    return message


def _add_parameters(fields: Any, parameters: GenerationParameters) -> None:
    for name, value in msgspec.to_builtins(parameters).items():
        if isinstance(value, bool):
            fields[name].bool_param = value
        elif isinstance(value, int):
            fields[name].int64_param = value
        elif isinstance(value, float):
            fields[name].MergeFromString(_DOUBLE_FIELD + struct.pack("<d", value))
        elif isinstance(value, str):
            fields[name].string_param = value
        else:
            fields[name].string_param = msgspec.json.encode(value).decode()


def _metadata(request: TokenRequest) -> tuple[tuple[str, str], ...]:
    return ((REQUEST_ID, request.request_id), *request.metadata.items())


def _tensors(answer: Any) -> dict[str, bytes]:
    names = [output.name for output in answer.outputs]
    tensors = dict(zip(names, answer.raw_output_contents, strict=False))
    if not {"output_ids", "output_lengths", "finish_reason"} <= tensors.keys():
        raise Unavailable("the predictor's answer is not what the contract says: tensors are missing")
    return tensors


def _int32(raw: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(raw) // 4}i", raw))


def _reasons(tensors: dict[str, bytes]) -> list[FinishReason | None]:
    """`finish_reason` BYTES [rows]: each element after its uint32 length."""
    raw, at = tensors["finish_reason"], 0
    reasons: list[FinishReason | None] = []
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        text = raw[at + 4 : end].decode()
        reasons.append(msgspec.convert(text or None, FinishReason | None))
        at = end
    return reasons


def _facts(metadata: Iterable[tuple[str, Any]] | None) -> AnswerFacts:
    texts = {name: value for name, value in metadata or () if isinstance(value, str)}
    return AnswerFacts(parse_server_timing(texts.get("server-timing", "")), passed_back(texts))


def _translated(error: grpc.aio.AioRpcError) -> PilotlightError:
    code = error.code().value[0]
    trailing = dict(error.trailing_metadata() or ())
    retry_after, param = trailing.get("retry-after"), trailing.get(PARAM_HEADER)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("the predictor did not answer in time")
    message = error.details() or error.code().name
    retry_after_s = parse_retry_after(retry_after) if isinstance(retry_after, str) else None
    named = client_param(param) if isinstance(param, str) else None
    word = trailing.get(CODE_HEADER)
    return from_status(
        _STATUS_OF_CODE.get(code, 500), message, retry_after_s, named, word if isinstance(word, str) else None
    )
