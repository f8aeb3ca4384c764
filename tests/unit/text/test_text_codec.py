"""Limits of the text codec, and that long texts tokenize to the same ids as short ones."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.text_model import INLINE_CHARS, library_codec


def letters() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    tokenizer.enable_truncation(3)
    return tokenizer


async def test_encode_and_decode() -> None:
    codec = library_codec(letters(), max_model_len=None)
    ids = await codec.encode("héllo", add_special_tokens=True)
    assert ids[0] == 256
    assert len(ids) == 7, "the truncation configured in tokenizer.json is off"
    assert codec.decode(ids) == "héllo"
    assert await codec.encode("héllo", add_special_tokens=False) == ids[1:]
    assert codec.decode([]) == ""


async def test_a_long_text_in_a_thread_gives_the_same_ids() -> None:
    codec = library_codec(letters(), max_model_len=None)
    short = await codec.encode("ab", add_special_tokens=False)
    assert await codec.encode("ab" * INLINE_CHARS, add_special_tokens=False) == short * INLINE_CHARS
    codec.close()


async def test_limits_name_the_numbers() -> None:
    codec = library_codec(letters(), max_model_len=10)
    assert len(await codec.encode("a" * 9, add_special_tokens=False)) == 9
    with pytest.raises(InvalidInput, match=r"maximum context length is 10 tokens.* 11 tokens .10 in the prompt"):
        await codec.encode("a" * 10, add_special_tokens=False)
    with pytest.raises(InvalidInput, match="has 641 characters, and at most 640 are taken") as caught:
        await codec.encode("a" * 641, add_special_tokens=False, param="messages")
    assert caught.value.param == "messages"
    with pytest.raises(InvalidInput, match="empty"):
        await codec.encode("", add_special_tokens=False)
