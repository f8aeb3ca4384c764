"""Whatever the cut, the pieces of a detokenizer concatenate to the library's decode of all ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_kinds import ALL, EXACT, byte_fallback, byte_level, unigram
from tokenizers import Tokenizer, models

from pilotlight_text.detokenization.detokenizer import (
    ByteFallbackVocabulary,
    ByteLevelVocabulary,
    StreamVocabulary,
    Vocabulary,
)
from pilotlight_text.detokenization.detokenizer import vocabulary_of as of_texts
from pilotlight_text.detokenization.token_texts import LibraryTexts, PackedTexts, highest_id, packed


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    return of_texts(LibraryTexts(tokenizer))


@cache
def packed_vocabulary(name: str) -> Vocabulary:
    tokenizer = ALL[name]()
    return of_texts(PackedTexts(packed(tokenizer, highest_id(tokenizer))))


def id_of(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return found


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
        "word pieces": StreamVocabulary,
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
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    for vocabulary in (vocabulary_of(tokenizer), packed_vocabulary(name)):
        assert "".join(pieces(vocabulary, ids, cuts, skip=skip)) == whole


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None)  # a busy machine is no failure
@given(text=st.text(max_size=60), cuts=CUTS)
def test_any_text_comes_back_whole_and_no_character_is_split(name: str, text: str, cuts: list[int]) -> None:
    tokenizer = ALL[name]()
    ids = tokenizer.encode(text).ids
    out = pieces(vocabulary_of(tokenizer), ids, cuts)
    assert out == pieces(packed_vocabulary(name), ids, cuts)
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
