"""Whatever the cut, the pieces of a detokenizer concatenate to the library's decode of all ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pilotlight_text.detokenization.detokenizer import (
    ByteFallbackVocabulary,
    ByteLevelVocabulary,
    StreamVocabulary,
    Vocabulary,
    vocabulary_of,
)

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "naïve café — 你好，世界 😀👍🏽 \n\ttabs  and   spaces",
    "Ünïcödé İstanbul ßtraße",
    'def f(x): return {"a": x[0]}',
] * 4


@cache
def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("é", special=False), AddedToken("<你>", special=False)])
    return tokenizer


@cache
def byte_fallback(*, strip: bool, fuse: bool = True) -> Tokenizer:
    """Llama 2's scheme: BPE over SentencePiece text whose unknown characters fall back to bytes."""
    bytes_vocab = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **bytes_vocab}
    for token in ["▁", *"abcdefghijklmnopqrstuvwxyz", "▁t", "he", "▁the", "▁a", "▁▁"]:
        vocab[token] = len(vocab)
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("▁", "▁")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    stages = [decoders.Replace("▁", " "), decoders.ByteFallback()]
    stages += [decoders.Fuse()] if fuse else []
    stages += [decoders.Strip(" ", 1, 0)] if strip else []
    tokenizer.decoder = decoders.Sequence(stages)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


@cache
def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def id_of(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return found


EXACT: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "byte-fallback": lambda: byte_fallback(strip=True),
    "byte-fallback without strip": lambda: byte_fallback(strip=False),
    "byte-fallback without fuse": lambda: byte_fallback(strip=False, fuse=False),
}
ALL = EXACT | {"metaspace unigram": unigram}


def pieces(vocabulary: Vocabulary, ids: Sequence[int], cuts: Sequence[int], *, skip: bool = True) -> list[str]:
    """Push `ids` cut into deltas of the lengths `cuts` (repeated)."""
    detokenizer = vocabulary.detokenizer(skip_special_tokens=skip)
    out, at, turn = [], 0, 0
    while at < len(ids):
        size = cuts[turn % len(cuts)]
        out.append(detokenizer.push(ids[at : at + size]))
        at, turn = at + size, turn + 1
    return [*out, detokenizer.finish()]


def test_the_decoder_chooses_the_vocabulary() -> None:
    kinds = {name: type(vocabulary_of(make())) for name, make in ALL.items()}
    assert kinds == {
        "byte-level": ByteLevelVocabulary,
        "byte-fallback": ByteFallbackVocabulary,
        "byte-fallback without strip": ByteFallbackVocabulary,
        "byte-fallback without fuse": ByteFallbackVocabulary,
        "metaspace unigram": StreamVocabulary,
    }
    assert type(vocabulary_of(byte_fallback(strip=True, fuse=False))) is StreamVocabulary
    assert type(vocabulary_of(Tokenizer(models.BPE()))) is StreamVocabulary


CUTS = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@pytest.mark.parametrize("name", EXACT)
@settings(deadline=None)  # a busy machine is no failure
@given(data=st.data(), cuts=CUTS, skip=st.booleans())
def test_any_ids_in_any_cut_equal_the_full_decode(name: str, data: st.DataObject, cuts: list[int], skip: bool) -> None:
    tokenizer = EXACT[name]()
    beyond_the_vocabulary = tokenizer.get_vocab_size() + 3
    ids = data.draw(st.lists(st.integers(0, beyond_the_vocabulary), max_size=40))
    shown = "".join(pieces(vocabulary_of(tokenizer), ids, cuts, skip=skip))
    assert shown == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None)  # a busy machine is no failure
@given(text=st.text(max_size=60), cuts=CUTS)
def test_any_text_comes_back_whole_and_no_character_is_split(name: str, text: str, cuts: list[int]) -> None:
    tokenizer = ALL[name]()
    ids = tokenizer.encode(text).ids
    out = pieces(vocabulary_of(tokenizer), ids, cuts)
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(out) == whole
    if "\N{REPLACEMENT CHARACTER}" not in whole:
        assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in out)


def test_a_character_appears_when_its_last_byte_has_come() -> None:
    tokenizer = byte_level()
    ids = [id_of(tokenizer, character) for character in ("ð", "Ł", "ĺ", "Ģ")]  # the four bytes of U+1F600
    detokenizer = vocabulary_of(tokenizer).detokenizer()
    assert [detokenizer.push([token_id]) for token_id in ids] == ["", "", "", "😀"]
    assert detokenizer.finish() == ""


def test_half_a_character_at_the_end_becomes_one_replacement_character() -> None:
    tokenizer = byte_level()
    ids = [id_of(tokenizer, character) for character in ("ð", "Ł")]
    detokenizer = vocabulary_of(tokenizer).detokenizer()
    assert detokenizer.push(ids) == ""
    assert detokenizer.finish() == "\N{REPLACEMENT CHARACTER}" == tokenizer.decode(ids)


def test_the_leading_space_is_dropped_at_the_start_of_a_text_only() -> None:
    tokenizer = byte_fallback(strip=True)
    vocabulary = vocabulary_of(tokenizer)
    the, bos = id_of(tokenizer, "▁the"), id_of(tokenizer, "<s>")
    prompt = tokenizer.encode("a", add_special_tokens=False).ids
    assert vocabulary.detokenizer().push([the]) == "the"
    assert vocabulary.detokenizer([bos]).push([the]) == "the", "a prompt without text is no context"
    assert vocabulary.detokenizer(prompt).push([the]) == " the"
    assert vocabulary.detokenizer(prompt).push([the]) == tokenizer.decode([*prompt, the])[1:]


@pytest.mark.parametrize("name", ALL)
def test_special_tokens_are_seen_where_a_request_wants_to(name: str) -> None:
    tokenizer = ALL[name]()
    special = next(iter(tokenizer.get_added_tokens_decoder()))
    ids = [*tokenizer.encode("the", add_special_tokens=False).ids, special]
    hidden, seen = (vocabulary_of(tokenizer).detokenizer(skip_special_tokens=skip) for skip in (True, False))
    text = tokenizer.id_to_token(special)
    assert text is not None
    assert text not in hidden.push(ids) + hidden.finish()
    assert text in seen.push(ids) + seen.finish()


def test_metaspace_keeps_the_space_after_a_prompt() -> None:
    tokenizer = unigram()
    vocabulary = vocabulary_of(tokenizer)
    prompt, ids = tokenizer.encode("the quick").ids, tokenizer.encode("brown fox").ids
    detokenizer = vocabulary.detokenizer(prompt)
    text = "".join([*(detokenizer.push([token_id]) for token_id in ids), detokenizer.finish()])
    assert "the quick" + text == tokenizer.decode([*prompt, *ids]) == "the quick brown fox"


def test_token_bytes_show_special_tokens_and_single_bytes() -> None:
    level, fallback = byte_level(), byte_fallback(strip=True)
    assert vocabulary_of(level).token_bytes(id_of(level, "</s>")) == b"</s>"
    assert vocabulary_of(level).token_bytes(id_of(level, "ð")) == b"\xf0"
    assert vocabulary_of(fallback).token_bytes(id_of(fallback, "<0xF0>")) == b"\xf0"
    assert vocabulary_of(fallback).token_bytes(id_of(fallback, "▁the")) == b" the"
    assert vocabulary_of(fallback).token_bytes(id_of(fallback, "<s>")) == b"<s>"
    assert vocabulary_of(unigram()).token_bytes(id_of(unigram(), "</s>")) == b"</s>"
    assert vocabulary_of(level).token_bytes(10**6) == b""
