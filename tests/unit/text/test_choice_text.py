"""What a client sees of a choice, and for how many tokens it is billed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import REPEATED, FinishReason, TokenEvent, TokenLogprob
from pilotlight_text.detokenization.stop_strings import StopStrings
from pilotlight_text.detokenization.text_stream import ChoiceText, Piece


class Letters:
    """A detokenizer for tokens that are code points; a letter comes one token late, like half of a character."""

    def __init__(self) -> None:
        self._late = ""

    def push(self, token_ids: Sequence[int]) -> str:
        text = self._late + "".join(map(chr, token_ids))
        self._late = text[-1:]
        return text[:-1]

    def held_chars(self) -> int:
        return len(self._late)

    def finish(self) -> str:
        return self._late


def choice(
    stops: Sequence[str] = (), *, min_tokens: int = 0, include: bool = False, keep_ids: bool = False
) -> ChoiceText:
    spec = StopStrings(stops, include_in_output=include)
    scanner = spec.scanner() if spec else None
    return ChoiceText(
        0,
        Letters(),
        scanner,
        min_tokens=min_tokens,
        show_stop_token=include,
        stop_tokens={1: "<|end|>"},
        keep_ids=keep_ids,
    )


def event(
    text: str, reason: FinishReason | None = None, *, logprobs: bool = False, stop_reason: int | str | None = None
) -> TokenEvent:
    ids = [ord(letter) for letter in text]
    shown = [TokenLogprob(token_id, -1.0) for token_id in ids] if logprobs else None
    return TokenEvent(output_ids=ids, finish_reason=reason, stop_reason=stop_reason, logprobs=shown)


def run(made: ChoiceText, events: Sequence[TokenEvent]) -> tuple[str, Piece]:
    text = ""
    for one in events:
        piece = made.push(one)
        text += piece.text
        if made.finished:
            break
    return text, piece


def test_plain_text_to_its_length() -> None:
    made = choice()
    text, last = run(made, [event("he"), event("llo", "length")])
    assert (text, last.finish_reason, last.stop_reason, made.completion_tokens) == ("hello", "length", None, 5)


def test_the_token_that_ended_it_is_counted_and_not_shown() -> None:
    made = choice()
    text, last = run(made, [event("hello"), event("$", "stop", stop_reason=36)])
    assert (text, last.finish_reason, last.stop_reason, made.completion_tokens) == ("hello", "stop", 36, 6)
    assert run(choice(include=True), [event("hello"), event("$", "stop")])[0] == "hello$"


def test_a_stop_string_bills_the_tokens_up_to_its_end() -> None:
    made = choice(["lo"])
    text, last = run(made, [event("hello world", logprobs=True)])
    assert (text, last.finish_reason, last.stop_reason) == ("hel", "stop", "lo")
    assert made.completion_tokens == 6, "the letter that completes the match comes one token late"
    assert last.logprobs is not None
    assert len(last.logprobs) == 6


def test_a_stop_string_in_what_was_held_back_to_the_end() -> None:
    text, last = run(choice(["lo"]), [event("hello", "length")])
    assert (text, last.finish_reason, last.stop_reason) == ("hel", "stop", "lo")


def test_a_possible_start_is_shown_when_nothing_follows() -> None:
    assert run(choice(["lox"]), [event("hello", "length")])[0] == "hello"
    assert run(choice(["lox"]), [event("hello"), event("$", "stop")])[0] == "hello"


def test_the_stop_string_itself_on_request() -> None:
    assert run(choice(["lo"], include=True), [event("hello world", "length")])[0] == "hello"


def test_min_tokens_come_before_any_stop_string() -> None:
    text, last = run(choice(["l"], min_tokens=5), [event("hello world", "length")])
    assert (text, last.stop_reason) == ("hello wor", "l")


def test_an_abort_is_an_error() -> None:
    with pytest.raises(Unavailable, match="gave this generation up"):
        choice().push(event("he", "abort"))


@settings(deadline=None)  # a busy machine is no failure
@given(
    text=st.text("abc", min_size=1, max_size=20),
    stops=st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    min_tokens=st.integers(0, 5),
)
def test_the_cut_into_events_changes_neither_text_nor_count(
    text: str, stops: list[str], cuts: list[int], min_tokens: int
) -> None:
    events: list[TokenEvent] = []
    at = 0
    while at < len(text):
        size = cuts[len(events) % len(cuts)]
        events.append(event(text[at : at + size], "length" if at + size >= len(text) else None))
        at += size
    cut, whole = choice(stops, min_tokens=min_tokens), choice(stops, min_tokens=min_tokens)
    cut_text, cut_last = run(cut, events)
    whole_text, whole_last = run(whole, [event(text, "length")])
    assert (cut_text, cut.completion_tokens) == (whole_text, whole.completion_tokens)
    assert (cut_last.finish_reason, cut_last.stop_reason) == (whole_last.finish_reason, whole_last.stop_reason)


@pytest.mark.parametrize("stop_reason", [1, None], ids=["a stop token", "the end of sequence"])
@pytest.mark.parametrize(("include", "shown"), [(False, "ab"), (True, "ab\x01<|end|>")])
def test_a_special_token_that_was_asked_for_as_text_stops_and_is_named(
    stop_reason: int | None, include: bool, shown: str
) -> None:
    text, last = run(choice(include=include), [event("ab\x01", "stop", stop_reason=stop_reason)])
    # The real detokenizer hides the token itself; the letter's stands for it here.
    assert (text, last.finish_reason, last.stop_reason) == (shown, "stop", "<|end|>")


def test_another_stop_token_keeps_its_id_and_repetition_hides_nothing() -> None:
    text, last = run(choice(), [event("abc", "stop", stop_reason=99)])
    assert (text, last.stop_reason) == ("ab", 99)
    text, last = run(choice(), [event("abab", "stop", stop_reason=REPEATED)])
    assert (text, last.stop_reason) == ("abab", REPEATED)


@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(deadline=None)
def test_kept_ids_are_those_that_are_billed(cuts: list[int]) -> None:
    made, letters, kept = choice(["de"], keep_ids=True), "abcdefgh", []
    turn = 0
    while letters and not made.finished:
        size = cuts[turn % len(cuts)]
        turn += 1
        piece = made.push(event(letters[:size]))
        letters = letters[size:]
        assert piece.token_ids is not None
        kept += piece.token_ids
    # The detokenizer of this test is one token late: the match is seen with the token behind it.
    assert kept == [ord(letter) for letter in "abcdef"]
    assert len(kept) == made.completion_tokens
