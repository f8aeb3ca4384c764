"""Incremental detokenization: token ids to text, as they come.

Responsible for text that never holds half a UTF-8 character and whose pieces concatenate to exactly what `tokenizers`
decodes for all ids at once, special tokens skipped (or not, where a request wants to see them). No I/O is done here.
This is the hottest path of the component: a token costs one table look-up and its share of a join.

    decoder in tokenizer.json                     vocabulary              a token in the table is
    ByteLevel                                     ByteLevelVocabulary     its bytes
    Replace*, ByteFallback [, Fuse [, Strip]]     ByteFallbackVocabulary  its text, or one byte of a character
    anything else                                 StreamVocabulary        (the decoder itself, over a window)

Tables fill as tokens are met: building one for 128k tokens up front would cost a cold start 60 ms.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Container, Sequence
from typing import Protocol

import msgspec

from pilotlight_text.detokenization.token_texts import TokenTexts

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_STREAM_CONTEXT_TOKENS = 24
_SHORT_WINDOW_TOKENS = 64

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


def vocabulary_of(texts: TokenTexts) -> Vocabulary:
    """The fastest vocabulary that is exact for this tokenizer's decoder."""
    stages = _stages(texts.decoder)
    if [stage.type for stage in stages if stage.type != "Fuse"] == ["ByteLevel"]:
        return ByteLevelVocabulary(texts)
    replacements: list[tuple[str, str]] = []
    while stages and stages[0].type == "Replace" and stages[0].pattern and stages[0].pattern.literal:
        replacements.append((stages[0].pattern.literal, stages[0].content))
        del stages[0]
    kinds = [stage.type for stage in stages]
    if kinds in (["ByteFallback"], ["ByteFallback", "Fuse"]):
        return ByteFallbackVocabulary(texts, replacements, strip="")
    if kinds == ["ByteFallback", "Fuse", "Strip"] and (stages[2].start, stages[2].stop) == (1, 0):
        return ByteFallbackVocabulary(texts, replacements, strip=stages[2].content)
    return StreamVocabulary(texts)


def _stages(decoder: bytes) -> list[_Stage]:
    if not decoder:
        return []
    stage = msgspec.json.decode(decoder, type=_Stage)
    return list(stage.decoders) if stage.type == "Sequence" else [stage]


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

    def __init__(self, texts: TokenTexts, hidden: Container[str]) -> None:
        super().__init__()
        self._text = texts.text
        self._hidden = hidden

    def __missing__(self, token_id: int) -> bytes:
        token = self._text(token_id)
        data = b"" if token is None or token in self._hidden else _byte_level(token)
        self[token_id] = data
        return data


class ByteLevelVocabulary:
    """Byte-level BPE (GPT-2, Llama 3, Qwen): every token is a string of bytes."""

    def __init__(self, texts: TokenTexts) -> None:
        self._shown = _BytesTable(texts, ())
        self._skipping = _BytesTable(texts, texts.special)

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

    def __init__(self, texts: TokenTexts, replacements: Sequence[tuple[str, str]], hidden: Container[str]) -> None:
        super().__init__()
        self._text = texts.text
        self._replacements = replacements
        self._hidden = hidden

    def _piece(self, token: str) -> str | bytes:
        for old, new in self._replacements:
            token = token.replace(old, new)
        return bytes([int(token[3:5], 16)]) if _BYTE_TOKEN.fullmatch(token) else token

    def __missing__(self, token_id: int) -> str | bytes | None:
        token = self._text(token_id)
        piece = None if token is None or token in self._hidden else self._piece(token)
        self[token_id] = piece
        return piece


class ByteFallbackVocabulary:
    """SentencePiece BPE with byte fallback (Llama 2, Mistral, Gemma): tokens are text, rare characters are bytes."""

    def __init__(self, texts: TokenTexts, replacements: Sequence[tuple[str, str]], *, strip: str) -> None:
        self._shown = _PieceTable(texts, replacements, ())
        self._skipping = _PieceTable(texts, replacements, texts.special)
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
    """Any other decoder, asked again with each push: three times the cost per token."""

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts

    def detokenizer(self, context_ids: Sequence[int] = (), *, skip_special_tokens: bool = True) -> StreamDetokenizer:
        hidden: Container[str] = self._texts.special if skip_special_tokens else ()
        return StreamDetokenizer(self._texts, context_ids[-_STREAM_CONTEXT_TOKENS:], hidden)

    def token_bytes(self, token_id: int) -> bytes:
        token = self._texts.text(token_id)
        return b"" if token is None else self._texts.joined([token]).encode()


class StreamDetokenizer:
    """As the library's DecodeStream: what a window of tokens decodes to beyond what its older half did. It has the rest
    at the end, and a way on where a window does not begin as its older half does.

    What gives no text for long is looked at seldom, and so costs as much per token as any other.
    """

    def __init__(self, texts: TokenTexts, context_ids: Sequence[int], hidden: Container[str]) -> None:
        self._text = texts.text
        self._joined = texts.joined
        self._hidden = hidden
        self._all = self._tokens(context_ids)
        self._window = list(self._all)
        self._older = len(self._window)
        self._prefix = self._joined(self._window).rstrip(_REPLACEMENT)
        self._shown = [self._prefix]
        self._lost = False
        self._look_at = 0

    def push(self, token_ids: Sequence[int]) -> str:
        tokens = self._tokens(token_ids)
        self._all += tokens
        self._window += tokens
        looked_at = self._all if self._lost else self._window
        if not tokens or len(looked_at) < self._look_at:
            return ""
        text = self._rest(self._joined(self._all).rstrip(_REPLACEMENT)) if self._lost else self._step()
        if text:
            self._shown.append(text)
        self._look_at = len(looked_at) + len(looked_at) // 16 if len(looked_at) > _SHORT_WINDOW_TOKENS else 0
        return text

    def held_chars(self) -> int:
        return 0  # nobody can tell

    def finish(self) -> str:
        return self._rest(self._joined(self._all))

    def _tokens(self, token_ids: Sequence[int]) -> list[str]:
        tokens = map(self._text, token_ids)
        return [token for token in tokens if token is not None and token not in self._hidden]

    def _step(self) -> str:
        whole = self._joined(self._window)
        if len(whole) <= len(self._prefix) or whole.endswith(_REPLACEMENT):
            return ""
        if not whole.startswith(self._prefix):
            self._lost = True
            return self._rest(self._joined(self._all).rstrip(_REPLACEMENT))
        text = whole[len(self._prefix) :]
        del self._window[: self._older]
        self._older = len(self._window)
        self._prefix = self._joined(self._window)
        return text

    def _rest(self, full: str) -> str:
        shown = "".join(self._shown)
        return full[len(shown) :] if full.startswith(shown) else ""
