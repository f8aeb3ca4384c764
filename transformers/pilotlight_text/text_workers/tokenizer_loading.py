"""A tenant's tokenizer and templates, looked at and loaded. Runs in a worker: blocking, and as long as they make it.

Some of what a tokenizer is runs where its tokens become text, in a process that is everybody's: that part has bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
import msgspec
from tokenizers import Tokenizer

from pilotlight_text.detokenization.token_texts import PackedTokens, highest_id, packed
from pilotlight_text.templates.jinja_template import TemplateRefused, compiled
from pilotlight_text.templates.template_sources import template_source
from pilotlight_text.text_workers.worker_jobs import LoadedTokens, TextSource
from pilotlight_text.tokenization.adapter_tokens import token_obstacle, tokenizer_obstacle
from pilotlight_text.tokenization.text_growth import GrowthRefused, check_growth, growth

MOST_TOKENS = 1 << 22
MOST_TOKEN_BYTES = 64 * 1024
"""Of one token as it is shown. The longest of published models have some hundred."""
MOST_DECODER_BYTES = 64 * 1024


class TextRefused(Exception):
    """It cannot be loaded; the message says why and holds nothing of this machine."""


def loaded(source: TextSource) -> tuple[Tokenizer, LoadedTokens]:
    """Raises TextRefused."""
    tokenizer = _tokenizer(source.tokenizer_json, "tokenizer.json")
    if source.own_json:
        base, tokenizer = tokenizer, _tokenizer(source.own_json, "the adapter's tokenizer.json")
        obstacle = tokenizer_obstacle(base, tokenizer, source.rows)
    else:
        obstacle = token_obstacle(tokenizer, source.own_tokens)
    if obstacle:
        raise TextRefused(f"the adapter cannot be served with this base: {obstacle}")
    end: int | None = None if source.own_end is None else tokenizer.token_to_id(source.own_end)
    return tokenizer, LoadedTokens(_tokens(tokenizer), end)


def compiled_templates(templates: Mapping[str, str]) -> Iterator[tuple[str, jinja2.Template]]:
    """With their digests. Raises TextRefused."""
    for name, source in templates.items():
        try:
            yield template_source(source).digest, compiled(source)
        except TemplateRefused as refusal:
            raise TextRefused(f"the model's chat template '{name}' {refusal}") from None


def _tokenizer(tokenizer_json: bytes, name: str) -> Tokenizer:
    try:
        check_growth(tokenizer_json)
        tokenizer = Tokenizer.from_buffer(tokenizer_json)
    except GrowthRefused as refusal:
        raise TextRefused(f"{name} cannot be read: {refusal}") from None
    except MemoryError:
        raise
    except BaseException as error:  # the library raises a bare Exception, and what panics in it no Exception at all
        raise TextRefused(f"{name} cannot be read: {str(error)[:500]}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokens(tokenizer: Tokenizer) -> PackedTokens:
    highest = highest_id(tokenizer)
    if highest >= MOST_TOKENS:
        raise TextRefused(f"its tokenizer has token {highest}; numbers below {MOST_TOKENS} are served")
    tokens = packed(tokenizer, highest)
    decoder: Any = msgspec.json.decode(tokens.decoder) if tokens.decoder else None
    if len(tokens.decoder) > MOST_DECODER_BYTES or has_expression(decoder):
        raise TextRefused(
            "its tokenizer's decoder is too long or has a regular expression, which only pods of the model's own run: "
            "annotate the endpoint with pilotlight.dev/front: pods"
        )
    longest = tokens.longest_bytes * growth(decoder)
    if longest > MOST_TOKEN_BYTES:
        raise TextRefused(f"its tokenizer has a token of {longest:g} bytes; at most {MOST_TOKEN_BYTES} are served")
    return tokens


def has_expression(step: object) -> bool:
    """A regular expression takes as long as who wrote it wants."""
    if isinstance(step, Mapping):
        return "Regex" in step or any(map(has_expression, step.values()))
    return isinstance(step, list) and any(map(has_expression, step))
