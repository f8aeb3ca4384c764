"""ModelStreamInfer as the generate extension's stream: a text in, an event for each piece out. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from pilotlight_protocol.errors import InternalError, InvalidInput, from_status
from pilotlight_protocol.v2 import InferRequest, InferResponse, Tensor

TEXT_INPUT = "text_input"
_END_OF_EVENT = b"\n\n"


class _Event(msgspec.Struct):
    model_name: str = ""
    model_version: str = ""
    index: int = 0
    text_output: str | None = None
    finish_reason: str | None = None
    error: str | None = None
    status: int = 500


_events = msgspec.json.Decoder(_Event)


def generate_body(request: InferRequest) -> bytes:
    """Raises InvalidInput for what the generate extension cannot say."""
    tensor = request.tensor(TEXT_INPUT)
    others = [given.name for given in request.inputs if given.name != TEXT_INPUT]
    if tensor is None or others or tensor.datatype != "BYTES" or len(tensor.data) != 1:
        raise InvalidInput(
            "a stream takes one input, 'text_input' BYTES [1]; other tensors are ModelInfer's", param=TEXT_INPUT
        )
    try:
        text = tensor.data[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"'text_input' is not valid UTF-8: {error.reason}", param=TEXT_INPUT) from None
    fields: dict[str, Any] = {TEXT_INPUT: text}
    if request.id is not None:
        fields["id"] = request.id
    if request.parameters:
        fields["parameters"] = request.parameters
    return msgspec.json.encode(fields)


async def split_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each event, however many come in a piece."""
    part = b""
    async for piece in pieces:
        *whole, part = (part + piece).replace(b"\r\n", b"\n").split(_END_OF_EVENT)
        for event in whole:
            data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
            if data:
                yield data


def answer_of(data: bytes, request_id: str | None) -> InferResponse:
    """Raises what the event says went wrong."""
    try:
        event = _events.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InternalError("an event of the endpoint's stream is none of V2's") from error
    if event.error is not None:
        raise from_status(event.status, event.error)
    outputs = [
        Tensor(name, "BYTES", [1], [(text or "").encode()])
        for name, text in (("text_output", event.text_output), ("finish_reason", event.finish_reason))
    ]
    return InferResponse(event.model_name, event.model_version, outputs, request_id, {"index": event.index})
