"""A model's chat templates as its files have them, and the special tokens that templates read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

MAX_SOURCE_CHARS = 512 * 1024
"""The largest public templates have 20,000."""

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """`digest`: SHA-256 of the source, in hexadecimal."""

    source: str
    digest: str


def template_source(source: str) -> TemplateSource:
    return TemplateSource(source, sha256(source.encode("utf-8", "surrogatepass")).hexdigest())


def template_sources(
    tokenizer_config: Mapping[str, Any], template_file: str | None, named_files: Mapping[str, str]
) -> dict[str, TemplateSource]:
    """Name to source, from the three places a model may keep them; a file wins over tokenizer_config.json.

    Raises ValueError: what should be a template is none, or is too long for one.
    """
    sources: dict[str, Any] = {}
    configured = tokenizer_config.get("chat_template")
    if isinstance(configured, list):
        for item in configured:
            if not isinstance(item, dict) or not isinstance(item.get("name"), str):
                raise ValueError("an entry of 'chat_template' in tokenizer_config.json has no name")
            sources[item["name"]] = item.get("template")
    elif configured is not None:
        sources[DEFAULT] = configured
    sources |= named_files
    if template_file is not None:
        sources[DEFAULT] = template_file
    for name, source in sources.items():
        if not isinstance(source, str) or len(source) > MAX_SOURCE_CHARS:
            raise ValueError(
                f"the model's chat template '{name[:64]}' must be a text of at most {MAX_SOURCE_CHARS} characters"
            )
    return {name: template_source(source) for name, source in sources.items()}


def special_tokens_of(*configs: Mapping[str, Any]) -> dict[str, str]:
    """The `*_token` entries of tokenizer_config.json and special_tokens_map.json, as plain strings."""
    tokens: dict[str, str] = {}
    for config in configs:
        for name, value in config.items():
            content = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(content, str):
                tokens[name] = content
    return tokens
