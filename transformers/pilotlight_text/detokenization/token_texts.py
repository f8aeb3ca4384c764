"""What is asked of a tokenizer once a model has made tokens: the text of each, and its decoder. Pure.

The tokenizer itself may be in another process; then its tokens are packed into one piece of bytes, which costs the
process that shows text a copy and builds nothing.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Protocol

import msgspec
from tokenizers import Tokenizer

ABSENT = b"\xff"
"""Stands for an id that no token has: no UTF-8 holds this byte."""


class TokenTexts(Protocol):
    """`special`: text to id of those that a detokenizer leaves out. `decoder`: its JSON, b"" where there is none."""

    @property
    def special(self) -> Mapping[str, int]: ...

    @property
    def decoder(self) -> bytes: ...

    @property
    def text(self) -> Callable[[int], str | None]:
        """The token as the vocabulary spells it; None where it has none of that id."""
        ...

    @property
    def joined(self) -> Callable[[list[str]], str]:
        """What the decoder makes of tokens."""
        ...


class LibraryTexts:
    """Of a tokenizer that is here."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.special: Mapping[str, int] = _special(tokenizer)
        self.decoder = _decoder_json(tokenizer)
        self.text: Callable[[int], str | None] = tokenizer.id_to_token
        self.joined: Callable[[list[str]], str] = " ".join if tokenizer.decoder is None else tokenizer.decoder.decode


class PackedTokens(msgspec.Struct, frozen=True):
    """All tokens by id, one after the other in `texts`; `ends`: uint32[tokens], where each ends."""

    special: dict[str, int]
    decoder: bytes
    texts: bytes
    ends: bytes
    longest_bytes: int

    @property
    def size_bytes(self) -> int:
        return len(self.texts) + len(self.ends)


def highest_id(tokenizer: Tokenizer) -> int:
    """-1 where it has no token."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)


def packed(tokenizer: Tokenizer, highest: int) -> PackedTokens:
    texts, ends, end = [], array("I"), 0
    for token_id in range(highest + 1):
        token = tokenizer.id_to_token(token_id)
        data = ABSENT if token is None else token.encode()
        end += len(data)
        texts.append(data)
        ends.append(end)
    longest = max(map(len, texts), default=0)
    return PackedTokens(_special(tokenizer), _decoder_json(tokenizer), b"".join(texts), ends.tobytes(), longest)


class PackedTexts:
    """Of a tokenizer that is elsewhere."""

    def __init__(self, tokens: PackedTokens) -> None:
        self.special: Mapping[str, int] = tokens.special
        self.decoder = tokens.decoder
        self._texts = tokens.texts
        self._ends = array("I", tokens.ends)

    def text(self, token_id: int) -> str | None:
        if not 0 <= token_id < len(self._ends):
            return None
        data = self._texts[self._ends[token_id - 1] if token_id else 0 : self._ends[token_id]]
        return None if data == ABSENT else data.decode()

    @cached_property
    def joined(self) -> Callable[[list[str]], str]:
        if not self.decoder:
            return " ".join
        empty = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
        decoder = Tokenizer.from_str(json.dumps({"model": empty, "decoder": json.loads(self.decoder)})).decoder
        assert decoder is not None
        decode: Callable[[list[str]], str] = decoder.decode
        return decode


def _special(tokenizer: Tokenizer) -> dict[str, int]:
    added = tokenizer.get_added_tokens_decoder()
    return {token.content: token_id for token_id, token in added.items() if token.special}


def _decoder_json(tokenizer: Tokenizer) -> bytes:
    return b"" if tokenizer.decoder is None else bytes(tokenizer.decoder.__getstate__())
