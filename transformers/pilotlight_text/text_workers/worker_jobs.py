"""What a server and a text's worker say to each other.

A frame is its limits (`LIMITS`: CPU seconds, bytes of memory beyond what the worker has), a byte of what is asked, and
what it is asked of; an answer is a byte and its words. Msgpack, but for what a template is given: JSON.
"""

from __future__ import annotations

import struct

import msgspec

from pilotlight_text.detokenization.token_texts import PackedTokens

LIMITS = struct.Struct("<dQ")

LOAD, TOKENIZE, RENDER = b"l", b"t", b"r"
"""A `TextSource`, which is the first to be asked; a `tokenizer_jobs.Job`; a template's job."""

FAILED, NO_ROOM = b"F", b"N"
"""Beside those of `templates.worker_main`: the tokenizers library fails on this text; `tokenizer_jobs.NoRoom`."""


class TextSource(msgspec.Struct, frozen=True):
    """All that is a tenant's of a text. `own_json`: its adapter's tokenizer, b"" where there is none; `own_tokens`:
    (text, id) of what an adapter without one says was added; `own_end`: the text of a token that ends what it says.
    `rows`: tokens that the base has weights for. `templates`: name to source of those that are not known."""

    tokenizer_json: bytes
    templates: dict[str, str]
    own_json: bytes = b""
    own_tokens: tuple[tuple[str, int], ...] = ()
    own_end: str | None = None
    rows: int | None = None


class LoadedTokens(msgspec.Struct, frozen=True):
    """`end`: the id of `TextSource.own_end`."""

    tokens: PackedTokens
    end: int | None
