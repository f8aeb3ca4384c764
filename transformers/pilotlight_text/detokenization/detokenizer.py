"""Incremental detokenization: token ids to text, as they come.

Responsible for text that never holds half a UTF-8 character and whose pieces concatenate to exactly what `tokenizers`
decodes for all ids at once, special tokens skipped (or not, where a request wants to see them). No I/O is done here.
This is the hottest path of the component: a token costs one table look-up and its share of a join.

    decoder in tokenizer.json                     vocabulary              a token in the table is
    ByteLevel                                     ByteLevelVocabulary     its bytes
    Replace*, ByteFallback [, Fuse [, Strip]]     ByteFallbackVocabulary  its text, or one byte of a character
    anything else                                 StreamVocabulary        (the library's own DecodeStream)

Tables fill as tokens are met: building one for 128k tokens up front would cost a cold start 60 ms.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Protocol

import msgspec
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_STREAM_CONTEXT_TOKENS = 24

_utf_8_decode = codecs.utf_8_decode


class Detokenizer(Protocol):
    """Text of one choice. `push` returns the text that is final now; `finish`, called once, what was held back;
    `held_chars` is how many whole characters are held back."""

    def push(self, token_ids: Sequence[int]) -> str: ...

    def held_chars(self) -> int: ...

    def finish(self) -> str: ...


class Vocabulary(Protocol):
    """What all detokenizers of one tokenizer share. Ids beyond the vocabulary (padded embeddings) decode to nothing."""

    def detokenizer(self, context_ids: Sequence[int] = (), *, skip_special_tokens: bool = True) -> Detokenizer:
        """A fresh detokenizer; `context_ids` is the prompt, which decides whether the first space is a leading one."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """One token on its own, special tokens included, as `logprobs` shows it."""
        ...


class _Pattern(msgspec.Struct):
    literal: str | None = msgspec.field(name="String", default=None)


class _Stage(msgspec.Struct):
    type: str
    pattern: _Pattern | None = None
    content: str = ""
    start: int = 0
    stop: int = 0
    decoders: list[_Stage] = msgspec.field(default_factory=list)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The fastest vocabulary that is exact for this tokenizer's decoder."""
    stages = _stages(tokenizer)
    if [stage.type for stage in stages if stage.type != "Fuse"] == ["ByteLevel"]:
        return ByteLevelVocabulary(tokenizer)
    replacements: list[tuple[str, str]] = []
    while stages and stages[0].type == "Replace" and stages[0].pattern and stages[0].pattern.literal:
        replacements.append((stages[0].pattern.literal, stages[0].content))
        del stages[0]
    kinds = [stage.type for stage in stages]
    if kinds in (["ByteFallback"], ["ByteFallback", "Fuse"]):
        return ByteFallbackVocabulary(tokenizer, replacements, strip="")
    if kinds == ["ByteFallback", "Fuse", "Strip"] and (stages[2].start, stages[2].stop) == (1, 0):
        return ByteFallbackVocabulary(tokenizer, replacements, strip=stages[2].content)
    return StreamVocabulary(tokenizer)


def _stages(tokenizer: Tokenizer) -> list[_Stage]:
    if tokenizer.decoder is None:
        return []
    stage = msgspec.json.decode(tokenizer.decoder.__getstate__(), type=_Stage)
    return list(stage.decoders) if stage.type == "Sequence" else [stage]


def special_tokens(tokenizer: Tokenizer) -> frozenset[str]:
    """The texts of those that a detokenizer leaves out."""
    return frozenset(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's bytes_to_unicode, inverted: printable Latin-1 stands for itself, other bytes for U+0100 and up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF_CHARACTER[character] for character in token])
    except KeyError:  # an added token outside the alphabet stands for itself
        return token.encode()


class _BytesTable(dict[int, bytes]):
    """Token id to bytes; those of `hidden` tokens are none."""

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[str]) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._hidden = hidden

    def __missing__(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        data = b"" if token is None or token in self._hidden else _byte_level(token)
        self[token_id] = data
        return data


class ByteLevelVocabulary:
    """Byte-level BPE (GPT-2, Llama 3, Qwen): every token is a string of bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._shown = _BytesTable(tokenizer, frozenset())
        self._skipping = _BytesTable(tokenizer, special_tokens(tokenizer))

    def detokenizer(self, context_ids: Sequence[int] = (), *, skip_special_tokens: bool = True) -> ByteLevelDetokenizer:
        return ByteLevelDetokenizer(self._skipping if skip_special_tokens else self._shown)

    def token_bytes(self, token_id: int) -> bytes:
        return self._shown[token_id]


class ByteLevelDetokenizer:
    """An incremental UTF-8 decoder behind the table; what is no UTF-8 becomes U+FFFD by the same rule as in Rust."""

    __slots__ = ("_pending", "_table")

    def __init__(self, table: _BytesTable) -> None:
        self._table = table
        self._pending = b""

    def push(self, token_ids: Sequence[int]) -> str:
        table = self._table
        data = table[token_ids[0]] if len(token_ids) == 1 else b"".join([table[token_id] for token_id in token_ids])
        if self._pending:
            data = self._pending + data
        text, used = _utf_8_decode(data, "replace", False)
        self._pending = b"" if used == len(data) else data[used:]
        return text

    def held_chars(self) -> int:
        return 0  # less than one: its first bytes

    def finish(self) -> str:
        pending, self._pending = self._pending, b""
        return pending.decode("utf-8", "replace")


class _PieceTable(dict[int, "str | bytes | None"]):
    """Token id to text, to the one byte it stands for, or to None where it is skipped (a `hidden` token)."""

    def __init__(self, tokenizer: Tokenizer, replacements: Sequence[tuple[str, str]], hidden: frozenset[str]) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._replacements = replacements
        self._hidden = hidden

    def _piece(self, token: str) -> str | bytes:
        for old, new in self._replacements:
            token = token.replace(old, new)
        return bytes([int(token[3:5], 16)]) if _BYTE_TOKEN.fullmatch(token) else token

    def __missing__(self, token_id: int) -> str | bytes | None:
        token = self._tokenizer.id_to_token(token_id)
        piece = None if token is None or token in self._hidden else self._piece(token)
        self[token_id] = piece
        return piece


class ByteFallbackVocabulary:
    """SentencePiece BPE with byte fallback (Llama 2, Mistral, Gemma): tokens are text, rare characters are bytes."""

    def __init__(self, tokenizer: Tokenizer, replacements: Sequence[tuple[str, str]], *, strip: str) -> None:
        self._shown = _PieceTable(tokenizer, replacements, frozenset())
        self._skipping = _PieceTable(tokenizer, replacements, special_tokens(tokenizer))
        self._strip = strip

    def detokenizer(
        self, context_ids: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> ByteFallbackDetokenizer:
        table = self._skipping if skip_special_tokens else self._shown
        at_start = not any(table[token_id] for token_id in context_ids)
        return ByteFallbackDetokenizer(table, self._strip if at_start else "")

    def token_bytes(self, token_id: int) -> bytes:
        piece = self._shown[token_id] or b""
        return piece.encode() if isinstance(piece, str) else piece


class ByteFallbackDetokenizer:
    """Joins texts; a run of bytes is held until it ends, since one bad byte turns each byte of the run into U+FFFD."""

    __slots__ = ("_run", "_strip", "_table")

    def __init__(self, table: _PieceTable, strip: str) -> None:
        self._table = table
        self._strip = strip
        self._run = bytearray()

    def push(self, token_ids: Sequence[int]) -> str:
        table, parts = self._table, []
        for token_id in token_ids:
            piece = table[token_id]
            if piece.__class__ is str:
                if self._run:
                    parts.append(self._end_run())
                parts.append(piece)
            elif piece:
                self._run += piece  # type: ignore[arg-type]  # bytes: it is neither str nor None
        return self._stripped("".join(parts))

    def held_chars(self) -> int:
        return len(self._run.decode("utf-8", "ignore")) if self._run else 0

    def finish(self) -> str:
        return self._stripped(self._end_run())

    def _end_run(self) -> str:
        run = self._run
        self._run = bytearray()
        try:
            return run.decode()
        except UnicodeDecodeError:
            return _REPLACEMENT * len(run)

    def _stripped(self, text: str) -> str:
        if self._strip and text:
            text = text.removeprefix(self._strip)
            self._strip = ""
        return text


class StreamVocabulary:
    """Any other decoder, through the library's DecodeStream: twice the cost per token, and as exact as it is."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def detokenizer(self, context_ids: Sequence[int] = (), *, skip_special_tokens: bool = True) -> StreamDetokenizer:
        context = list(context_ids[-_STREAM_CONTEXT_TOKENS:])
        return StreamDetokenizer(self._tokenizer, context, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text.encode()


class StreamDetokenizer:
    """DecodeStream plus what it lacks: the rest at the end, and a way on where it loses its prefix."""

    def __init__(self, tokenizer: Tokenizer, context_ids: list[int], *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skips = skip_special_tokens
        self._stream: DecodeStream | None = DecodeStream(ids=context_ids, skip_special_tokens=skip_special_tokens)
        self._ids = context_ids
        self._pieces = [self._decode()]

    def push(self, token_ids: Sequence[int]) -> str:
        self._ids += token_ids
        if self._stream is not None:
            try:
                steps = [self._stream.step(self._tokenizer, token_id) or "" for token_id in token_ids]
            except Exception:  # the library raises a bare Exception: "Invalid prefix encountered"
                self._stream = None
            else:
                return self._emit("".join(steps))
        return self._emit(self._rest(self._decode().rstrip(_REPLACEMENT)))

    def held_chars(self) -> int:
        return 0  # nobody can tell

    def finish(self) -> str:
        return self._rest(self._decode())

    def _emit(self, text: str) -> str:
        if text:
            self._pieces.append(text)
        return text

    def _rest(self, full: str) -> str:
        shown = "".join(self._pieces)
        return full[len(shown) :] if full.startswith(shown) else ""

    def _decode(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=self._skips)
        return text
