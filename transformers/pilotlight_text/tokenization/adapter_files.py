"""What an adapter's folder says about text: a chat template, a tokenizer, tokens and an end of its own.

Responsible for reading, and for which of them count. Most adapters bring copies of their base's files, written anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pilotlight_models.folder_files import FileRefused, read_file, read_object, read_text
from pilotlight_text.templates.template_sources import special_tokens_of
from pilotlight_text.tokenization.tokenizer_files import TokenizerFiles, TokenizerFilesError, named_templates


@dataclass(frozen=True)
class AdapterFiles:
    """`tokenizer_json`: b"" where it brings none. `tokens`: (text, id) of what it says was added to its tokenizer."""

    tokenizer_json: bytes = b""
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    special_tokens_map: Mapping[str, Any] = field(default_factory=dict)
    template: str | None = None
    named_templates: Mapping[str, str] = field(default_factory=dict)
    tokens: tuple[tuple[str, int], ...] = ()

    @property
    def eos_token(self) -> str | None:
        return special_tokens_of(self.special_tokens_map, self.tokenizer_config).get("eos_token")


def read_adapter_files(folder: Path) -> AdapterFiles:
    """Raises TokenizerFilesError."""
    try:
        config = read_object(folder / "tokenizer_config.json") or {}
        added = read_object(folder / "added_tokens.json") or {}
        return AdapterFiles(
            _tokenizer_json(folder),
            config,
            read_object(folder / "special_tokens_map.json") or {},
            read_text(folder / "chat_template.jinja"),
            named_templates(folder),
            tuple(_added(config, added)),
        )
    except FileRefused as error:
        raise TokenizerFilesError(f"the adapter's {error.message}") from error


def with_template_of(adapter: AdapterFiles, base: TokenizerFiles) -> TokenizerFiles:
    """The base's files, with the adapter's chat templates alone where it has any, and the special tokens they read:
    it was trained with those."""
    config = adapter.tokenizer_config
    if adapter.template is None and not adapter.named_templates and config.get("chat_template") is None:
        return base
    kept = {name: value for name, value in base.tokenizer_config.items() if name != "chat_template"}
    return replace(
        base,
        tokenizer_config={**kept, **config},
        special_tokens_map={**base.special_tokens_map, **adapter.special_tokens_map},
        template=adapter.template,
        named_templates=adapter.named_templates,
    )


def own_end(adapter: AdapterFiles, base: TokenizerFiles) -> str | None:
    """The token that ends what the adapter says, where its base ends with another (trained on chats, over a base that
    was not); None where the engine knows it."""
    ends = adapter.eos_token
    if ends == special_tokens_of(base.special_tokens_map, base.tokenizer_config).get("eos_token"):
        return None
    return ends


def _tokenizer_json(folder: Path) -> bytes:
    try:
        return read_file(folder / "tokenizer.json")
    except FileNotFoundError:
        return b""


def _added(config: Mapping[str, Any], added: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    yield from ((text, token_id) for text, token_id in added.items() if isinstance(token_id, int))
    decoder = config.get("added_tokens_decoder")
    for token_id, entry in decoder.items() if isinstance(decoder, dict) else ():
        text = entry.get("content") if isinstance(entry, dict) else None
        if isinstance(text, str) and len(token_id) < 20 and token_id.isascii() and token_id.isdigit():
            yield text, int(token_id)
