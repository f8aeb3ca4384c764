"""The name of a model in requests and answers: an endpoint has its own, the client is shown the one that it asked for.

Pure. Nothing else of a body is changed, byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec

from pilotlight_wire.handlers import JSON, Reply

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NAMING = ("model", "model_name")
_TEXT = re.compile(rb'"[^"\\]*"')
_JSON_LENGTH = "inference-header-content-length"
_AROUND = ("message", "response")
"""Anthropic's first event and those of OpenAI's Responses have the model one level below."""


def with_model(body: bytes, model_name: str) -> bytes:
    """The body of a request with this for its `model`; as it is where it is no JSON object."""
    try:
        fields = _OBJECT.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return body
    fields["model"] = msgspec.Raw(msgspec.json.encode(model_name))
    return msgspec.json.encode(fields)


def _names(events: bytes, start: int) -> bool:
    """Whether some model is named from there on."""
    return events.find(b'"model"', start) >= 0 or events.find(b'"model_name"', start) >= 0


class AskedName:
    """Puts the name into answers wherever a surface names the model."""

    def __init__(self, name: str, *, of_metadata: bool = False) -> None:
        """`of_metadata`: V2's, where the model is the object's `name`."""
        self._name = msgspec.Raw(msgspec.json.encode(name))
        self._naming = (*_NAMING, "name") if of_metadata else _NAMING
        self._head: tuple[bytes, bytes] | None = None
        """How events of this stream begin, up to the name and with it, and how they shall."""

    def in_reply(self, reply: Reply) -> Reply:
        if reply.content_type.startswith(JSON):
            return replace(reply, body=self._in_object(reply.body))
        for name, value in reply.headers.items():
            if name.lower() == _JSON_LENGTH and value.isdecimal():
                return self._in_binary(reply, name, int(value))
        return reply

    def _in_binary(self, reply: Reply, header: str, json_length: int) -> Reply:
        """V2's: a JSON object, and tensors behind it."""
        head = self._in_object(reply.body[:json_length])
        headers = {**reply.headers, header: str(len(head))}
        return replace(reply, body=head + reply.body[json_length:], headers=headers)

    def in_events(self, piece: bytes) -> bytes:
        """`piece`: whole server-sent events."""
        if self._head is not None and piece.startswith(self._head[0]) and not _names(piece, len(self._head[0])):
            return self._head[1] + piece[len(self._head[0]) :]
        if b'"model' not in piece:
            return piece
        return b"".join(map(self._in_line, piece.splitlines(keepends=True)))

    def _in_line(self, line: bytes) -> bytes:
        if not line.startswith(b"data:") or b'"model' not in line:
            return line
        data = line[5:].strip()
        changed = line.replace(data, self._in_object(data), 1)
        if changed != line:
            self._learn(line, changed)
        return changed

    def _learn(self, line: bytes, changed: bytes) -> None:
        """Events that begin as this one does say the name in the same place: what is behind it need not be read."""
        for field in _NAMING:
            begin, found, behind = line.partition(b'"%b":' % field.encode())
            value = _TEXT.match(behind)
            if not found or value is None or _names(line, len(begin) + len(found)):
                continue
            head = begin + found
            if changed == head + self._name + behind[value.end() :]:
                self._head = head + value[0], head + bytes(self._name)

    def _in_object(self, data: bytes) -> bytes:
        try:
            fields = _OBJECT.decode(data)
        except (msgspec.DecodeError, RecursionError):
            return data
        changed = False
        for field in self._naming:
            if field in fields and bytes(fields[field]) != b"null":
                fields[field], changed = self._name, True
        for field in _AROUND:
            if (inner := fields.get(field)) is not None and b'"model"' in bytes(inner):
                fields[field], changed = msgspec.Raw(self._in_object(bytes(inner))), True
        return msgspec.json.encode(fields) if changed else data
