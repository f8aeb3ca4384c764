"""The items that a request continues, where its sender keeps responses and gives them with it: behind its body. Pure.

So whoever answers needs to have kept nothing, and any replica may.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_wire.handlers import RequestContext
from pilotlight_wire.hop_headers import HISTORY

_items = msgspec.json.Decoder(list[dict[str, Any]])


def with_history(body: bytes, items: bytes) -> tuple[str, bytes]:
    """What `HISTORY` says, and the body that goes with it. `items`: a JSON list; b"" where nothing is continued, and
    who does not know the header can read the body, too."""
    return str(len(body)), body + items


def take_history(context: RequestContext) -> list[dict[str, Any]] | None:
    """The body is the client's own from here on. None where the sender keeps nothing. Raises InvalidInput."""
    length = context.headers.get(HISTORY)
    if length is None:
        return None
    if not (length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= len(context.body)):
        raise InvalidInput(f"the header {HISTORY} is no number of bytes of the body")
    behind = context.body[int(length) :]
    try:
        items = _items.decode(behind) if behind else []
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"what stands behind the body is no list of items: {error}") from error
    context.body = context.body[: int(length)]
    return items
