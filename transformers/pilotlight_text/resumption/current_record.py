"""The record of the answer that is made now, where one is told; and what of an answer comes of it.

The time an answer was made at and its random ids are neither in the request nor in its tokens: where it may have to be
made a second time, they come of its record, so that the same bytes come out.
"""

from __future__ import annotations

import secrets
import time
from contextvars import ContextVar
from typing import Protocol

from pilotlight_text.token_source import TokenRequest, TokenSource, TokenStream


class Record(Protocol):
    def now_s(self) -> float: ...

    def token(self, size_bytes: int) -> str:
        """Hexadecimal digits for so many bytes; nobody guesses them."""
        ...

    async def stream(self, source: TokenSource, request: TokenRequest) -> TokenStream:
        """As the source's, told."""
        ...


RECORD: ContextVar[Record | None] = ContextVar("record", default=None)


def now_s() -> float:
    """Unix seconds."""
    record = RECORD.get()
    return time.time() if record is None else record.now_s()


def random_token(size_bytes: int) -> str:
    record = RECORD.get()
    return secrets.token_hex(size_bytes) if record is None else record.token(size_bytes)


async def token_stream(source: TokenSource, request: TokenRequest) -> TokenStream:
    """As the source's, told where the answer is."""
    record = RECORD.get()
    return await (source.stream(request) if record is None else record.stream(source, request))
