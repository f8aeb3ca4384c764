"""Server-sent events that go by the name of what they say, as Responses and Messages write them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

_encode = msgspec.json.Encoder().encode


def written(events: Sequence[msgspec.Struct]) -> bytes:
    """Each under its struct's tag."""
    return b"".join([b"event: %b\ndata: %b\n\n" % (_name(event), _encode(event)) for event in events])


def _name(event: msgspec.Struct) -> bytes:
    tag = event.__struct_config__.tag
    assert isinstance(tag, str)
    return tag.encode("ascii")
