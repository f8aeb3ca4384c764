"""How many times longer a tokenizer's steps may make a text, read from its tokenizer.json. Pure.

A few replacements of `a` by a hundred of them make terabytes of forty letters. Unicode's normal forms and lower case
count as none: they grow a text a little.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import msgspec

MOST = 128.0
"""Llama's normalizer comes to 12: `▁` in front and for each space."""

_MAY_MATCH_NOTHING = "*?|^$\\(["
_ORDINARY_CHARMAP_BYTES = 64
_NONE = msgspec.Raw(b"")


class GrowthRefused(Exception):
    """The message says which of its steps cannot be read, or makes a text how much longer."""


class _Steps(msgspec.Struct):
    normalizer: msgspec.Raw = _NONE
    decoder: msgspec.Raw = _NONE


_decoder = msgspec.json.Decoder(_Steps)


def check_growth(tokenizer_json: bytes) -> None:
    """Raises GrowthRefused."""
    try:
        steps = _decoder.decode(tokenizer_json)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise GrowthRefused(f"it is not a tokenizer's JSON: {error}") from error
    for name, step in (("normalizer", steps.normalizer), ("decoder", steps.decoder)):
        try:
            grown = growth(msgspec.json.decode(step)) if memoryview(step).nbytes else 1.0
        except (msgspec.MsgspecError, RecursionError) as error:
            raise GrowthRefused(f"its {name} cannot be read: {error}") from error
        if grown > MOST:
            raise GrowthRefused(f"its {name} may make a text {grown:.3g} times as long; at most {MOST:g} is served")


def growth(step: object) -> float:
    """`step`: a normalizer or a decoder, as its JSON says. What the library does not know counts as none."""
    if not isinstance(step, Mapping):
        return 1.0
    match step.get("type"):
        case "Sequence":
            steps = step.get("normalizers", step.get("decoders"))
            product = 1.0
            for part in steps if isinstance(steps, list) else ():
                product = min(product * growth(part), 1e300)
            return product
        case "Replace":
            return _replacement(step.get("pattern"), _bytes(step.get("content")))
        case "Prepend":
            return 1.0 + _bytes(step.get("prepend"))
        case "Precompiled":
            return _charmap(step.get("precompiled_charsmap"))
        case _:
            return 1.0


def _replacement(pattern: object, content_bytes: int) -> float:
    if not isinstance(pattern, Mapping):
        return 1.0 + content_bytes
    if isinstance(pattern.get("String"), str):
        return max(1.0, content_bytes / _bytes(pattern["String"])) if pattern["String"] else 1.0 + content_bytes
    expression = pattern.get("Regex")
    matches_something = isinstance(expression, str) and expression and not set(expression) & set(_MAY_MATCH_NOTHING)
    return max(1.0, content_bytes) if matches_something else 1.0 + content_bytes


def _charmap(encoded: object) -> float:
    """SentencePiece's: a trie, then the texts that a character may become, with NUL between."""
    try:
        charmap = base64.b64decode(encoded) if isinstance(encoded, str) else b""
    except binascii.Error:
        return 1.0
    texts = charmap[4 + int.from_bytes(charmap[:4], "little") :]
    longest = max(map(len, texts.split(b"\0")), default=0)
    return 1.0 if longest <= _ORDINARY_CHARMAP_BYTES else float(longest)


def _bytes(text: object) -> int:
    return len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else 0
