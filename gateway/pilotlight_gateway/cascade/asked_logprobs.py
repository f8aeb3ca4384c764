"""Log probabilities that the gateway asks for and the client does not: put into a request, taken out of its answer.

Pure.
"""

from __future__ import annotations

import msgspec

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OBJECTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_UNASKED = (b"null", b"false", b"0")


class _Format(msgspec.Struct):
    type: str = ""


class _WantsJson(msgspec.Struct):
    response_format: _Format | None = None


_wants = msgspec.json.Decoder(_WantsJson)


def wants_json(body: bytes) -> bool:
    try:
        asked = _wants.decode(body).response_format
    except (msgspec.MsgspecError, RecursionError):
        return False
    return asked is not None and asked.type in ("json_object", "json_schema")


def with_logprobs(body: bytes, is_chat: bool) -> bytes | None:
    """None where the client asks for them itself, or the body is no object."""
    try:
        fields = _OBJECT.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    if bytes(fields.get("logprobs", b"null")) not in _UNASKED:
        return None
    fields["logprobs"] = msgspec.Raw(b"true" if is_chat else b"1")
    return msgspec.json.encode(fields)


def without_logprobs(data: bytes) -> bytes:
    """Of a whole answer, or of the JSON of one event."""
    if b'"logprobs"' not in data:
        return data
    try:
        fields = _OBJECT.decode(data)
        choices = _OBJECTS.decode(fields["choices"])
    except (msgspec.MsgspecError, RecursionError, KeyError):
        return data
    for choice in choices:
        if "logprobs" in choice:
            choice["logprobs"] = msgspec.Raw(b"null")
    fields["choices"] = msgspec.Raw(msgspec.json.encode(choices))
    return msgspec.json.encode(fields)


def events_without_logprobs(piece: bytes) -> bytes:
    if b'"logprobs"' not in piece:
        return piece
    lines = piece.splitlines(keepends=True)
    return b"".join(_line_without(line) if line.startswith(b"data:") else line for line in lines)


def _line_without(line: bytes) -> bytes:
    data = line[5:].strip()
    return line.replace(data, without_logprobs(data), 1) if data else line
