"""What a tokenizer is asked, and the asking of it: the same here and in a worker.

Blocking, and as long as the text. It raises what the library raises; whoever calls says what that means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from tokenizers import Encoding, Tokenizer

Side = Literal["left", "right"]

_MARKS = (0xFFFF_FFFF, 0xFFFF_FFFE)
"""Ids that stand for a content, first and second: no token has them."""


class NoRoom(Exception):
    """A row may not be as long as its special tokens are."""


class TokenRow(msgspec.Struct, frozen=True):
    """`pair_start`: where the tokens of a pair's second text begin; None where nothing tells them apart."""

    ids: list[int]
    pair_start: int | None = None


class Ids(msgspec.Struct, frozen=True, tag=True):
    """Of each text: int[texts, seq]."""

    texts: list[str]
    special: bool

    @property
    def chars(self) -> int:
        return sum(map(len, self.texts))


class Starts(msgspec.Struct, frozen=True, tag=True):
    """Where in the text each of its tokens begins, in characters: int[seq]."""

    text: str
    special: bool

    @property
    def chars(self) -> int:
        return len(self.text)


class Rows(msgspec.Struct, frozen=True, tag=True):
    """A row for each text, or for each pair; those longer than `most` tokens are cut, of a pair the longer text first
    (transformers' `longest_first`)."""

    texts: list[str]
    seconds: list[str] | None
    special: bool
    most: int | None
    side: Side

    @property
    def chars(self) -> int:
        return sum(map(len, self.texts)) + sum(map(len, self.seconds or ()))


class Shortened(msgspec.Struct, frozen=True, tag=True):
    """Each text up to its first `most` tokens."""

    texts: list[str]
    most: int

    @property
    def chars(self) -> int:
        return sum(map(len, self.texts))


Job = Ids | Starts | Rows | Shortened


def done(tokenizer: Tokenizer, job: Job) -> list[list[int]] | list[int] | list[TokenRow] | list[str]:
    """Raises NoRoom."""
    match job:
        case Ids(texts, special):
            return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=special)]
        case Starts(text, special):
            return [begins for begins, _ in tokenizer.encode(text, add_special_tokens=special).offsets]
        case Rows(texts, seconds, special, most, side):
            given = texts if seconds is None else list(zip(texts, seconds, strict=True))
            rows: list[TokenRow] = []
            for place, encoding in enumerate(tokenizer.encode_batch_fast(given, add_special_tokens=special)):
                rows.append(_row(encoding.ids, encoding.type_ids if seconds is not None else ()))
                if most is not None and len(encoding.ids) > most:
                    pair = None if seconds is None else seconds[place]
                    rows[-1] = _cut(tokenizer, texts[place], pair, special, most, side)
            return rows
        case Shortened(texts, most):
            spans = [encoding.offsets for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
            return [
                text if len(span) <= most else text[: span[most - 1][1]]
                for text, span in zip(texts, spans, strict=True)
            ]


def _row(ids: list[int], types: Sequence[int]) -> TokenRow:
    """`types`: of the tokens of a pair."""
    return TokenRow(ids, types.index(1) if 1 in types else None)


def _cut(tokenizer: Tokenizer, text: str, second: str | None, special: bool, most: int, side: Side) -> TokenRow:
    texts = [text] if second is None else [text, second]
    bare = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    left = most - tokenizer.num_special_tokens_to_add(second is not None) if special else most
    if left < 1:
        raise NoRoom
    lengths = (left,) if second is None else longest_first(len(bare[0]), len(bare[1]), left)
    kept = [_shortened(ids, length, side) for ids, length in zip(bare, lengths, strict=True)]
    return _around(tokenizer, kept) if special else TokenRow(kept[0])


def _shortened(ids: list[int], length: int, side: Side) -> list[int]:
    if side == "right":
        return ids[:length]
    return ids[len(ids) - min(length, len(ids)) :]


def _around(tokenizer: Tokenizer, contents: list[list[int]]) -> TokenRow:
    """With special tokens. The library's own truncation keeps what it cuts off, too: of a pair, each combination."""
    blanks = [Encoding() for _ in contents]
    for blank, ids, mark in zip(blanks, contents, _MARKS, strict=False):
        blank.pad(len(ids), pad_id=mark)
    whole = tokenizer.post_process(blanks[0], blanks[1] if len(blanks) > 1 else None, True)
    fill = dict(zip(_MARKS, map(iter, contents), strict=False))
    ids = [next(fill[token]) if token in fill else token for token in whole.ids]
    return _row(ids, whole.type_ids if len(contents) > 1 else ())


def longest_first(first: int, second: int, most: int) -> tuple[int, int]:
    """What is left of two lengths when the longer one loses a token at a time until both have `most`."""
    if first + second <= most:
        return first, second
    shorter = min(first, second, most // 2)
    longer = most - shorter
    return (shorter, longer) if first <= second else (longer, shorter)
