"""What a route's decision may depend on, read out of a request when it is first asked for. Pure.

A body that is not what a surface takes is the surface's to refuse: here it has no user and no text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

SESSION_HEADER = "x-session-id"
VERSION_HEADER = "x-model-version"
LARGEST_READ_BYTES = 64 * 1024
"""Of a body whose texts are looked at for the prompt's length: a larger one would hold everybody up."""

BYTES_PER_TOKEN = 4
"""Of UTF-8: English has 4 to 5 a token, Chinese 3 bytes a character and about as many characters as tokens."""

_PICTURE = b";base64,"
_MOST_PICTURES = 256

_NO_TEXT = frozenset(("role", "type", "id", "url", "image_url", "input_audio", "file_data", "data", "signature"))
"""Fields whose strings are names, addresses or pictures."""


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _User(msgspec.Struct):
    user: str | None = None


class _MetadataUser(msgspec.Struct):
    metadata: _Metadata | None = None


class _Prompt(msgspec.Struct):
    messages: Any = None
    prompt: Any = None
    input: Any = None
    system: Any = None
    instructions: Any = None
    tools: Any = None
    text_input: Any = None
    input_ids: Any = None
    query: Any = None
    documents: Any = None


_user = msgspec.json.Decoder(_User)
_metadata_user = msgspec.json.Decoder(_MetadataUser)
_prompt = msgspec.json.Decoder(_Prompt)


class RequestFacts:
    """`version`: what the client asks for, "" for none. `fallback_identity`: for who says no user or session."""

    def __init__(
        self, tenant: str, headers: Mapping[str, str], body: bytes, *, path_version: str = "", fallback_identity: str
    ) -> None:
        self.tenant = tenant
        self.headers = headers
        self.version = headers.get(VERSION_HEADER, "") or path_version
        self._fallback = fallback_identity
        self._body = body
        self._tokens: int | None = None

    def identity(self) -> str:
        """Whose request it is as far as it should go where the last one went. One tenant's are nobody else's."""
        session = self.headers.get(SESSION_HEADER)
        said = self._said_user()
        kind, who = ("user", said) if said else ("session", session) if session else ("key", self._fallback)
        return f"{self.tenant}\n{kind}\n{who}"

    def _said_user(self) -> str | None:
        try:
            if user := _user.decode(self._body).user:
                return user
            metadata = _metadata_user.decode(self._body).metadata
        except (msgspec.DecodeError, RecursionError):
            return None
        return None if metadata is None else metadata.user_id

    @property
    def is_read(self) -> bool:
        """The prompt's length is estimated from its texts, not from the size of the body."""
        return len(self._body) <= LARGEST_READ_BYTES

    def prompt_tokens(self) -> int:
        """Estimated."""
        if self._tokens is None:
            self._tokens = _estimated(self._body)
        return self._tokens


def _estimated(body: bytes) -> int:
    if len(body) > LARGEST_READ_BYTES:
        return math.ceil((len(body) - _picture_bytes(body)) / BYTES_PER_TOKEN)
    try:
        prompt = _prompt.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return 0
    text_bytes, tokens = _sizes([getattr(prompt, name) for name in prompt.__struct_fields__])
    return tokens + math.ceil(text_bytes / BYTES_PER_TOKEN)


def _picture_bytes(body: bytes) -> int:
    """Of the data URLs in it, found without reading it as JSON."""
    size = at = 0
    for _ in range(_MOST_PICTURES):
        begin = body.find(_PICTURE, at)
        at = body.find(b'"', begin)
        if begin < 0 or at < 0:
            break
        size += at - begin
    return size


def _sizes(roots: list[Any]) -> tuple[int, int]:
    """The UTF-8 bytes of all texts below, and the number of token ids."""
    text_bytes = tokens = 0
    below = list(roots)
    while below:
        at = below.pop()
        if isinstance(at, str):
            text_bytes += len(at) if at.isascii() else len(at.encode("utf-8", "replace"))
        elif isinstance(at, list):
            ids = sum(type(each) is int for each in at)
            tokens += ids
            if ids < len(at):
                below.extend(at)
        elif isinstance(at, dict):
            below.extend(value for name, value in at.items() if name not in _NO_TEXT)
    return text_bytes, tokens
