"""What becomes of a request's texts below the seam, and of several choices that cannot differ."""

from __future__ import annotations

from typing import Any

import pytest

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_text.token_level import TokenLevel, bad_word_ids, bad_words_of, token_level
from pilotlight_text.tokenization.truncation import Truncation

WORDS = {"ugly": [7], " ugly": [8], "bad day": [1, 2], " bad day": [3, 2], "same": [4], " same": [4], "x": [5]}


def encoded(*words: str) -> dict[str, list[int]]:
    spelled = bad_words_of(GenerationParameters(bad_words=list(words)))
    return {text: WORDS.get(text, [6, 6, 6] if text.strip() else []) for text in spelled}


def level(**parameters: Any) -> TokenLevel:
    hidden = {"<|end|>": 2, "<|turn|>": 3}
    asked = GenerationParameters(**parameters)
    return token_level(asked, include_stop=False, hidden_tokens=lambda: hidden, encoded=encoded(*asked.bad_words))


def test_what_holds_no_text_goes_down_as_it_is() -> None:
    asked = GenerationParameters(temperature=0.5, n=2, stop_token_ids=[4], logit_bias={5: 1.0})
    made = token_level(asked, include_stop=False, hidden_tokens=dict, encoded={})
    assert made.parameters is asked
    assert (made.stops, made.stop_tokens, made.copies) == (None, {}, False)


def test_stop_strings_stay_and_special_tokens_become_ids() -> None:
    made = level(stop=["<|end|>", "###", "<|turn|>"], stop_token_ids=[9])
    assert made.parameters == GenerationParameters(stop_token_ids=[9, 2, 3])
    assert made.stop_tokens == {2: "<|end|>", 3: "<|turn|>"}
    assert made.stops is not None
    assert made.stops.stops == ("###",)
    assert level(stop=["<|end|>"]).stops is None, "nothing is left to look for in text"


@pytest.mark.parametrize("parameters", [{"ignore_eos": True}, {"stop_token_ids": [2]}])
def test_an_end_of_its_own_ends_as_the_engines_does(parameters: dict[str, Any]) -> None:
    def ended(asked: GenerationParameters) -> TokenLevel:
        return token_level(asked, include_stop=False, hidden_tokens=lambda: {"<|end|>": 2}, encoded={}, end=2)

    made = ended(GenerationParameters(stop_token_ids=[9]))
    assert (made.parameters.stop_token_ids, made.stop_tokens) == ([9, 2], {2: None})
    assert ended(GenerationParameters(stop=["<|end|>"])).stop_tokens == {2: "<|end|>"}
    asked = GenerationParameters(**parameters)
    assert ended(asked).parameters is asked, "it goes on over ends, or has this one itself"


def test_choices_at_temperature_0_are_generated_once() -> None:
    assert level(n=3, temperature=0) == TokenLevel(GenerationParameters(temperature=0), copies=True)
    assert not level(n=1, temperature=0).copies
    assert not level(n=3).copies, "the model may sample"


def test_bad_words_begin_a_text_and_stand_in_one() -> None:
    words = ["ugly", "bad day", "same", " x", "ugly"]
    assert bad_word_ids(words, encoded(*words)) == [[7], [8], [1, 2], [3, 2], [4], [5]]
    made = level(bad_words=["ugly"], bad_words_token_ids=[[9]])
    assert made.parameters == GenerationParameters(bad_words_token_ids=[[9], [7], [8]])
    with pytest.raises(InvalidInput, match="no token") as caught:
        level(bad_words=["   "])
    assert caught.value.param == "bad_words"


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [
        (Truncation(2), [4, 5]),
        (Truncation(2, "right"), [1, 2]),
        (Truncation(9), [1, 2, 3, 4, 5]),
        (Truncation(-1, room=7), [3, 4, 5]),
        (Truncation(-1), [1, 2, 3, 4, 5]),
    ],
)
def test_a_prompt_is_cut_on_the_side_that_was_asked_for(truncation: Truncation, kept: list[int]) -> None:
    assert truncation.of([1, 2, 3, 4, 5], context=10) == kept


@pytest.mark.parametrize(
    ("truncation", "context"),
    [(Truncation(0), 10), (Truncation(11), 10), (Truncation(-1), None), (Truncation(-1, room=10), 10)],
)
def test_a_cut_that_cannot_be_made_is_refused_by_name(truncation: Truncation, context: int | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        truncation.of([1, 2], context)
    assert caught.value.param == "truncate_prompt_tokens"


def test_without_a_context_length_a_number_of_tokens_is_enough() -> None:
    assert Truncation(1).of([1, 2], None) == [2]
