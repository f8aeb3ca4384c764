"""From a model's files to a codec and a chat template. Blocking: run it before the loop or in a thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from tokenizers import Tokenizer

from pilotlight_text.answer_parts.chosen_format import ChosenFormat
from pilotlight_text.answer_parts.format_choice import AS_THE_TEMPLATE_SAYS, NamedParsers, chosen_formats
from pilotlight_text.templates.chat_template import ChatTemplate, TemplateRunner
from pilotlight_text.templates.known_templates import KNOWN_DIGESTS
from pilotlight_text.templates.limited_process import MIB, ProcessEnded, ProcessLimits, answer_of
from pilotlight_text.templates.template_sources import TemplateSource, special_tokens_of, template_sources
from pilotlight_text.text_model import LoadedText, TextCodec, library_codec
from pilotlight_text.tokenization import tokenizer_check
from pilotlight_text.tokenization.tokenizer_check import TokenizerRefused
from pilotlight_text.tokenization.tokenizer_files import TokenizerFiles, TokenizerFilesError, model_folder, read

if TYPE_CHECKING:
    from pilotlight_text.tokenization.adapter_files import AdapterFiles

COMPILE_LIMITS = ProcessLimits(cpu_s=2.0, wall_s=20.0, memory_bytes=256 * MIB)

_log = logging.getLogger("pilotlight.text")


def load_text(
    model_uri: str,
    max_model_len: int | None,
    templates: TemplateRunner,
    environment: Mapping[str, str],
    parsers: NamedParsers = AS_THE_TEMPLATE_SAYS,
    adapter_uri: str = "",
) -> LoadedText:
    """`environment`: the store's. `adapter_uri`: its own chat template, tokenizer and end, if it has any, are what it
    was trained with. Raises TokenizerFilesError: missing or broken files, a chat template that does not compile, or an
    adapter's tokenizer that is not for this base."""
    return text_of(read_text_files(model_uri, environment, adapter_uri), max_model_len, templates, parsers)


@dataclass(frozen=True, slots=True)
class TextFilesRead:
    """All that a text is made of. `adapter`: None where there is none."""

    base: TokenizerFiles
    adapter: AdapterFiles | None = None


def read_text_files(model_uri: str, environment: Mapping[str, str], adapter_uri: str = "") -> TextFilesRead:
    """Raises TokenizerFilesError: missing or broken files."""
    with model_folder(model_uri, environment) as folder:
        files = read(folder)
    if not adapter_uri:
        return TextFilesRead(files)
    from pilotlight_text.tokenization import adapter_files  # only where there is one

    with model_folder(adapter_uri, environment) as folder:
        return TextFilesRead(files, adapter_files.read_adapter_files(folder))


def text_of(
    read_files: TextFilesRead, max_model_len: int | None, templates: TemplateRunner, parsers: NamedParsers
) -> LoadedText:
    """Raises TokenizerFilesError: a tokenizer or a chat template that does not compile, or one that is not for its
    base."""
    files, adapter = read_files.base, read_files.adapter
    tokenizer, end = _tokenizer(files.tokenizer_json), None
    if adapter is not None:
        from pilotlight_text.tokenization import adapter_files

        tokenizer = _adapters_tokenizer(adapter, files, tokenizer)
        ends = adapter_files.own_end(adapter, files)
        end = None if ends is None else tokenizer.token_to_id(ends)
        files = adapter_files.with_template_of(adapter, files)
    sources = sources_of(files)
    try:
        _check_templates(sources)
    except ValueError as error:
        raise TokenizerFilesError(str(error)) from error
    codec = library_codec(tokenizer, max_model_len=max_model_len or files.context_length)
    return loaded_text(files, sources, codec, templates, parsers, end)


def sources_of(files: TokenizerFiles) -> dict[str, TemplateSource]:
    """Raises TokenizerFilesError."""
    try:
        return template_sources(files.tokenizer_config, files.template, files.named_templates)
    except ValueError as error:
        raise TokenizerFilesError(str(error)) from error


def loaded_text(
    files: TokenizerFiles,
    sources: Mapping[str, TemplateSource],
    codec: TextCodec,
    templates: TemplateRunner,
    parsers: NamedParsers,
    end: int | None,
) -> LoadedText:
    """`files`, `sources`: with what an adapter has of its own."""
    template_tokens = special_tokens_of(files.special_tokens_map, files.tokenizer_config)
    template = ChatTemplate(sources, template_tokens, templates, max_output_chars=codec.max_chars)
    answer_format = _answer_format(sources, parsers, codec)
    return LoadedText(codec, template, int(time.time()), answer_format, files.sampling_defaults, files.pooling, end)


def _adapters_tokenizer(adapter: AdapterFiles, base: TokenizerFiles, tokenizer: Tokenizer) -> Tokenizer:
    """The adapter's, or `tokenizer`, its base's, where it brings none. Raises TokenizerFilesError."""
    from pilotlight_text.tokenization import adapter_tokens

    if adapter.tokenizer_json in (b"", base.tokenizer_json):
        own = tokenizer
        obstacle = "" if adapter.tokenizer_json else adapter_tokens.token_obstacle(tokenizer, adapter.tokens)
    else:
        own = _tokenizer(adapter.tokenizer_json, "the adapter's tokenizer.json")
        obstacle = adapter_tokens.tokenizer_obstacle(tokenizer, own, base.vocab_size)
    if obstacle:
        raise TokenizerFilesError(f"the adapter cannot be served with this base: {obstacle}")
    return own


def _answer_format(
    sources: Mapping[str, TemplateSource], parsers: NamedParsers, codec: TextCodec
) -> ChosenFormat | None:
    choice = chosen_formats([source.source for source in sources.values()], parsers)
    _log.info("in answers, %s", choice.why)
    if choice.calls is None and choice.reasoning is None:
        return None
    return ChosenFormat(choice.calls, choice.reasoning, partial(frozenset, codec.special_tokens))


def _tokenizer(tokenizer_json: bytes, name: str = "tokenizer.json") -> Tokenizer:
    try:
        tokenizer_check.check(tokenizer_json)
        return Tokenizer.from_buffer(tokenizer_json)
    except TokenizerRefused as error:
        raise TokenizerFilesError(f"{name} cannot be read: {error}") from error
    except BaseException as error:  # the library raises a bare Exception, and what panics in it no Exception at all
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        _log.warning("the tokenizers library on %s: %s", name, error)
        raise TokenizerFilesError(f"{name} cannot be read: {str(error)[:500]}") from error


def _check_templates(sources: dict[str, TemplateSource]) -> None:
    """Compile what is not known elsewhere first: folding one of its constants may take all there is. ValueError."""
    unknown = {name: source.source for name, source in sources.items() if source.digest not in KNOWN_DIGESTS}
    if not unknown:
        return
    try:
        complaint = answer_of("compile", msgspec.json.encode(unknown), COMPILE_LIMITS)
    except ProcessEnded as ended:
        raise ValueError(f"compiling the model's chat template {ended}") from ended
    if complaint:
        raise ValueError(f"the model's chat template {complaint.decode('utf-8', 'replace')}")
