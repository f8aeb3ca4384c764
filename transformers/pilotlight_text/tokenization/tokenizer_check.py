"""What a tokenizer.json may take to load, and make of a text, told before: a tenant's file may expand 2,500-fold.

The estimate is by size and structure (milliseconds); what it cannot rule out is loaded in a limited process first.
Blocking. Bounds are per byte or entry, measured with the worst files we could write for each part of the format:

    normalizer, pre-tokenizer, post-processor, decoder   2,500 (a regular expression of `\\p{L}`)
    an Unigram vocabulary                                  400 (a trie node per byte)
    added tokens                                           100
    any other entry: after a comma or `[`                  300
    any object                                           1,100
"""

from __future__ import annotations

import msgspec

from pilotlight_text.templates.limited_process import MIB, ProcessEnded, ProcessLimits, answer_of
from pilotlight_text.tokenization.text_growth import GrowthRefused, check_growth

MEMORY_BYTES = 1024 * MIB
MAX_BYTES = 128 * MIB
LOAD_LIMITS = ProcessLimits(cpu_s=20.0, wall_s=30.0, memory_bytes=MEMORY_BYTES)

_PLAIN_MODELS = frozenset({"BPE", "WordPiece", "WordLevel"})
_UNACCOUNTED_BYTES = 4096


class TokenizerRefused(Exception):
    """It is no tokenizer, or none that may be loaded here; the message says why."""


_NONE = msgspec.Raw(b"")


class _Model(msgspec.Struct):
    type: str | None = None
    vocab: msgspec.Raw = _NONE
    merges: msgspec.Raw = _NONE


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: msgspec.Raw = _NONE
    normalizer: msgspec.Raw = _NONE
    pre_tokenizer: msgspec.Raw = _NONE
    post_processor: msgspec.Raw = _NONE
    decoder: msgspec.Raw = _NONE


_decoder = msgspec.json.Decoder(_Tokenizer)


def check(tokenizer_json: bytes) -> None:
    """Raises TokenizerRefused: too large, no JSON, or more than `MEMORY_BYTES` to load."""
    if len(tokenizer_json) > MAX_BYTES:
        raise TokenizerRefused(f"it has {len(tokenizer_json)} bytes; at most {MAX_BYTES} are read")
    estimate = memory_estimate(tokenizer_json)
    try:
        check_growth(tokenizer_json)
    except GrowthRefused as refusal:
        raise TokenizerRefused(str(refusal)) from None
    if estimate is not None and estimate <= MEMORY_BYTES:
        return
    try:
        complaint = answer_of("tokenizer", tokenizer_json, LOAD_LIMITS)
    except ProcessEnded as ended:
        raise TokenizerRefused(f"loading it {ended}") from ended
    if complaint:
        raise TokenizerRefused(complaint.decode("utf-8", "replace"))


def memory_estimate(tokenizer_json: bytes) -> int | None:
    """At most so many bytes are needed to load it; None where its structure does not tell. Raises TokenizerRefused."""
    try:
        parts = _decoder.decode(tokenizer_json)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TokenizerRefused(f"it is not a tokenizer's JSON: {error}") from error
    steps = sum(map(_length, (parts.normalizer, parts.pre_tokenizer, parts.post_processor, parts.decoder)))
    added, vocab, merges = map(_length, (parts.added_tokens, parts.model.vocab, parts.model.merges))
    # A name that stands twice counts once here, and is read twice by the library.
    if len(tokenizer_json) - steps - added - vocab - merges > _UNACCOUNTED_BYTES:
        return None
    entries = tokenizer_json.count(b",") + tokenizer_json.count(b"[")
    return (
        8 * len(tokenizer_json)
        + 2500 * steps
        + 100 * added
        + (0 if parts.model.type in _PLAIN_MODELS else 400 * vocab)
        + 300 * entries
        + 1100 * tokenizer_json.count(b"{")
    )


def _length(raw: msgspec.Raw) -> int:
    return memoryview(raw).nbytes
