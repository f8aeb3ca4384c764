"""Stop strings: what is shown, what is held back, and that the cut of the text never matters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_text.detokenization.stop_strings import StopStrings


def run(stops: list[str], chunks: list[str], *, include: bool = False) -> tuple[list[str], str | None]:
    scanner = StopStrings(stops, include_in_output=include).scanner()
    shown = [scanner.push(chunk) for chunk in chunks]
    return [*shown, scanner.finish()], scanner.matched


CASES = [
    ("no stop in sight", ["END"], ["hello"], ["hello", ""], None),
    ("within a chunk", ["END"], ["hello END more"], ["hello ", ""], "END"),
    ("across chunks", ["END"], ["hello E", "N", "D more"], ["hello ", "", "", ""], "END"),
    ("a false start is shown as soon as it is one", ["END"], ["EN", "T"], ["", "ENT", ""], None),
    ("a false start that contains a start", ["aab"], ["aa", "a", "b"], ["", "a", "", ""], "aab"),
    ("what is held at the end is text", ["END"], ["hello EN"], ["hello ", "EN"], None),
    ("the first to be complete wins", ["abcd", "bc"], ["abcd"], ["a", ""], "bc"),
    ("of two that end together the longer", ["bc", "abc"], ["xabc"], ["x", ""], "abc"),
    ("nothing is shown after the match", ["\n"], ["a\nb", "c"], ["a", "", ""], "\n"),
    ("the longest possible start is held", ["abcX", "cY"], ["abc"], ["", "abc"], None),
    ("no stop strings", [], ["a", "b"], ["a", "b", ""], None),
]


@pytest.mark.parametrize(
    ("stops", "chunks", "shown", "matched"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_scanner(stops: list[str], chunks: list[str], shown: list[str], matched: str | None) -> None:
    assert run(stops, chunks) == (shown, matched)


def test_the_stop_string_is_shown_on_request() -> None:
    assert run(["END"], ["x EN", "D y"], include=True) == (["x ", "END", ""], "END")


LETTERS = st.text("abc", max_size=24)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


@settings(deadline=None)  # a busy machine is no failure
@given(stops=STOPS, chunks=st.lists(LETTERS, max_size=6), include=st.booleans())
def test_the_cut_never_matters(stops: list[str], chunks: list[str], include: bool) -> None:
    text = "".join(chunks)
    shown, matched = run(stops, chunks, include=include)
    whole, whole_matched = run(stops, [text], include=include)
    letters, letters_matched = run(stops, list(text), include=include)
    assert ("".join(shown), matched) == ("".join(whole), whole_matched) == ("".join(letters), letters_matched)
    if matched is None:
        assert "".join(shown) == text
        assert not any(stop in text for stop in stops)


@settings(deadline=None)  # a busy machine is no failure
@given(stops=STOPS, text=LETTERS)
def test_no_more_is_held_than_could_become_a_stop_string(stops: list[str], text: str) -> None:
    scanner = StopStrings(stops).scanner()
    shown = scanner.push(text)
    held = scanner.finish()
    if scanner.matched is None:
        assert shown + held == text
        assert held == "" or any(stop.startswith(held) for stop in stops)
        assert not any(stop.startswith(text[at:]) for at in range(len(shown)) for stop in stops)


HIDDEN = {"<|end|>": 7, "<|end|>x": 8, "<|turn|>": 9}


@pytest.mark.parametrize(
    ("stop", "pushed", "include", "shown", "matched"),
    [
        ("<|end|>\n", ["a", 7, "\nb"], False, "a", True),
        ("<|end|>\n", ["a", 7, "\nb"], True, "a<|end|>\n", True),
        ("<|end|>\n", ["a", 7, "b\n"], False, "ab\n", False),
        ("<|end|>\n", ["a", 7], False, "a", False),
        ("<|end|>\n", ["a<|end|>\nb"], False, "a", True),
        ("y<|turn|>user", ["xy", 9, "us", "er"], False, "x", True),
        ("<|end|>x!", ["a", 8, "!"], False, "a", True),
        ("<|end|><|turn|>", ["a", 7, 9, "b"], True, "a<|end|><|turn|>", True),
        ("plain", ["a", 7, "pla", "in"], False, "a", True),
    ],
)
def test_a_hidden_token_within_a_stop_string_is_seen_by_the_search_alone(
    stop: str, pushed: list[str | int], include: bool, shown: str, matched: bool
) -> None:
    scanner = StopStrings([stop, "never"], include_in_output=include, hidden=HIDDEN).scanner()
    text = ""
    for piece in pushed:
        text += scanner.push(piece if isinstance(piece, str) else scanner.marks.get(piece, ""))
    text += scanner.finish()
    assert (text, scanner.matched) == (shown, stop if matched else None)
    text.encode()  # no mark is left in it
