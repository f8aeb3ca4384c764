"""A request's JSON to a msgspec struct; what is wrong with it is said so that the sender finds it. Pure."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from pilotlight_protocol.errors import InvalidInput

T = TypeVar("T")

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of a body that is not what its struct says."""

# A high half that no low half follows; the backslash must not be escaped itself.
_LONE_SURROGATE = re.compile(rb"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})")


def read_json(decoder: msgspec.json.Decoder[T], body: bytes | memoryview, what: str) -> T:
    """Raises InvalidInput: `what` (as "a generate request") is what the body was to be."""
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise invalid_json(body, error, what) from None


def invalid_json(body: bytes | memoryview, error: Exception, what: str = "a body for this route") -> InvalidInput:
    """What to tell the sender of a body that raised one of UNREADABLE; it was to be `what`."""
    if isinstance(error, msgspec.ValidationError):
        return InvalidInput(f"not {what}: {error}")
    content = bytes(body)
    if not content.strip():
        return InvalidInput("the body is empty; send a JSON object")
    if isinstance(error, RecursionError):
        return InvalidInput("the body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput("the body is not valid JSON: a string in it is not UTF-8")
    if "truncated" in str(error):
        # msgspec says the same of half a surrogate pair as of a body that ends too early.
        lone = _LONE_SURROGATE.search(content)
        if lone is not None:
            return InvalidInput(
                f"the body is not valid JSON: {lone[1].decode()} (byte {lone.start(1)}) is half of a surrogate pair; "
                "send both halves, or the character itself in UTF-8"
            )
        return InvalidInput(f"the body is not valid JSON: it ends after {len(content)} bytes, before its value does")
    return InvalidInput(f"the body is not valid JSON: {error}")
