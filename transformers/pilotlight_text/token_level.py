"""What a request for text asks of who makes tokens, and what of it is left to do in text. Pure.

stop strings                     found in text; one that is the text of a special token, which is no text while
                                 special tokens are skipped, becomes a stop token; one that holds such
                                 a text is looked for with a mark in its place
bad words                        become token sequences, by the model's tokenizer, as vLLM makes them
an adapter's own end            becomes a stop token that reads as the end of a sequence
several choices at temperature 0 are one: what is generated once is shown as often as it was asked for
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_text.detokenization.stop_strings import StopStrings


@dataclass(frozen=True, slots=True)
class TokenLevel:
    """`parameters` hold nothing of text. `stop_tokens`: token id to the stop string that it stands for, None for an end
    of sequence. `copies`: all choices are shown of the one that is generated."""

    parameters: GenerationParameters
    stops: StopStrings | None = None
    stop_tokens: Mapping[int, str | None] = field(default_factory=dict)
    copies: bool = False


def token_level(
    asked: GenerationParameters,
    *,
    include_stop: bool,
    hidden_tokens: Callable[[], Mapping[str, int]],
    encoded: Mapping[str, list[int]],
    end: int | None = None,
) -> TokenLevel:
    """`hidden_tokens`: text to id of those that the request does not get to see. `encoded`: the ids of each of
    `bad_words_of`. `end`: one that the engine does not know of. Raises InvalidInput: a bad word that is no token."""
    copies = asked.n > 1 and asked.is_greedy
    ended = with_end(asked, end)
    if not (copies or asked.stop or asked.bad_words or ended is not asked):
        return TokenLevel(asked)
    changes: dict[str, object] = {"n": 1} if copies else {}
    stops, stop_tokens = None, dict[int, str | None]({end: None} if end is not None and ended is not asked else {})
    if asked.stop:
        hidden = hidden_tokens()
        stop_tokens |= {hidden[text]: text for text in asked.stop if text in hidden}
        if shown := [text for text in asked.stop if text not in hidden]:
            stops = StopStrings(shown, include_in_output=include_stop, hidden=hidden)
        changes["stop"] = []
    if stop_tokens:
        changes["stop_token_ids"] = [*asked.stop_token_ids, *stop_tokens]
    if asked.bad_words:
        words = [*asked.bad_words_token_ids, *bad_word_ids(asked.bad_words, encoded)]
        changes |= {"bad_words": [], "bad_words_token_ids": words}
    return TokenLevel(msgspec.structs.replace(asked, **changes), stops, stop_tokens, copies)


def with_end(asked: GenerationParameters, end: int | None) -> GenerationParameters:
    """What ends with this token as well, unless the request goes on over ends or has it among its own."""
    if end is None or asked.ignore_eos or end in asked.stop_token_ids:
        return asked
    return msgspec.structs.replace(asked, stop_token_ids=[*asked.stop_token_ids, end])


def bad_words_of(asked: GenerationParameters) -> list[str]:
    """What is to be encoded, nothing around it."""
    return (
        [spelled for word in dict.fromkeys(asked.bad_words) for spelled in _spellings(word)] if asked.bad_words else []
    )


def _spellings(word: str) -> tuple[str, str]:
    """As it begins a text, and as it stands in one."""
    return word.lstrip(), " " + word.lstrip()


def bad_word_ids(words: Sequence[str], encoded: Mapping[str, list[int]]) -> list[list[int]]:
    """Each word as it begins a text and as it stands in one, where that is another first token (vLLM's
    `SamplingParams.update_from_tokenizer`)."""
    sequences: list[list[int]] = []
    for word in dict.fromkeys(words):
        begins, within = (encoded[spelled] for spelled in _spellings(word))
        if not begins:
            raise InvalidInput(f"'bad_words': {word!r} is no token of this model", param="bad_words")
        sequences.append(begins)
        if within and within[0] != begins[0] and len(within) == len(begins):
            sequences.append(within)
    return sequences
