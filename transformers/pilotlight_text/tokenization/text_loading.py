"""From a model's files to a codec and a compiled chat template. Blocking: run it before the loop or in a thread."""

from __future__ import annotations

import time

from tokenizers import Tokenizer

from pilotlight_text.text_model import LoadedText
from pilotlight_text.tokenization.chat_template import ChatTemplate, special_tokens_of, template_sources
from pilotlight_text.tokenization.text_codec import TextCodec
from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError, directory_of, read


def load_text(model_uri: str, max_model_len: int | None) -> LoadedText:
    """Raises TokenizerFilesError: missing or broken files, or a chat template that does not compile."""
    files = read(directory_of(model_uri))
    try:
        tokenizer = Tokenizer.from_buffer(files.tokenizer_json)
    except Exception as error:  # the library raises a bare Exception
        raise TokenizerFilesError(f"tokenizer.json cannot be read: {error}") from error
    codec = TextCodec(tokenizer, max_model_len=max_model_len or files.context_length)
    try:
        template = ChatTemplate(
            template_sources(files.tokenizer_config, files.template, files.named_templates),
            special_tokens_of(files.special_tokens_map, files.tokenizer_config),
            max_output_chars=codec.max_chars,
        )
    except ValueError as error:
        raise TokenizerFilesError(str(error)) from error
    return LoadedText(codec, template, int(time.time()))
