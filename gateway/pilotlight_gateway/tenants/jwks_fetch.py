"""Reads a JWKS over HTTP: one address, no redirects, so many bytes, so many seconds. In a thread: it is read rarely."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from http.client import HTTPException
from typing import Any

from pilotlight_protocol.errors import Unavailable

DEADLINE_S = 5.0
MAX_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


async def fetch_keys(url: str, deadline_s: float = DEADLINE_S) -> bytes:
    """Raises Unavailable."""
    try:
        async with asyncio.timeout(deadline_s):
            return await asyncio.to_thread(_read, url, deadline_s)
    except TimeoutError as error:
        raise Unavailable(f"no answer within {deadline_s:g} s") from error


def _read(url: str, deadline_s: float) -> bytes:
    ends_at = time.monotonic() + deadline_s
    opener = urllib.request.build_opener(_NoRedirects)
    content = b""
    try:
        with opener.open(url, timeout=deadline_s) as answer:
            while piece := answer.read1(_PIECE_BYTES):
                content += piece
                if len(content) > MAX_BYTES:
                    raise Unavailable(f"it is larger than {MAX_BYTES >> 20} MiB")
                if time.monotonic() > ends_at:
                    raise Unavailable(f"it is not whole within {deadline_s:g} s")
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"it cannot be read: {error}") from error
    return content
