"""A JSON body to a msgspec struct, with errors that name the field. Pure."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.json_bodies import invalid_json

T = TypeVar("T")


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises InvalidInput: what is wrong and, as `param`, where (`messages[0].role`)."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        param = path.rstrip("`").lstrip(".") or _missing_field(message)
        where = f"'{param}': " if param else ""
        raise InvalidInput(f"{where}{message[:1].lower()}{message[1:]}", param=param or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_json(body, error) from None


def _missing_field(message: str) -> str:
    return message.rsplit("`", 2)[-2] if "missing required field" in message else ""
