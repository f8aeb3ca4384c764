"""What of an answer tells how good it is, read out of OpenAI's chat and text completions, whole or in events. Pure.

An answer that is written otherwise tells nothing, and is taken for good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from pilotlight_gateway.cascade.cascade_spec import CascadeSpec


class _TokenLogprob(msgspec.Struct):
    logprob: float | None = None


class _Logprobs(msgspec.Struct):
    """`content` in chat, `token_logprobs` in text completions."""

    content: list[_TokenLogprob] | None = None
    token_logprobs: list[float | None] | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []


_JSON_BEGINS = frozenset('{["-0123456789tfn')
_answers = msgspec.json.Decoder(_Answer)


@dataclass(slots=True)
class SeenChoice:
    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    refused: bool = False
    calls: bool = False
    pieces: int = 0


class FirstAnswer:
    """What has come of it so far. `is_whole`: nothing comes any more."""

    def __init__(self) -> None:
        self.choices: dict[int, SeenChoice] = {}
        self.is_whole = False

    @property
    def tokens(self) -> int:
        """Of the choice that has most; at least so many."""
        return max((max(len(each.logprobs), each.pieces) for each in self.choices.values()), default=0)

    def take(self, data: bytes) -> None:
        """A whole answer, or the JSON of one event."""
        try:
            answer = _answers.decode(data)
        except (msgspec.MsgspecError, RecursionError):
            return
        for choice in answer.choices:
            self._take(self.choices.setdefault(choice.index, SeenChoice()), choice)

    def take_events(self, piece: bytes) -> None:
        for line in piece.splitlines():
            if line.startswith(b"data:"):
                self.take(line[5:])

    def _take(self, seen: SeenChoice, choice: _Choice) -> None:
        message = choice.message or choice.delta or _Message(choice.text)
        seen.text += message.content or ""
        seen.pieces += bool(message.content or message.tool_calls)
        seen.refused = seen.refused or bool(message.refusal)
        seen.calls = seen.calls or bool(message.tool_calls)
        seen.logprobs.extend(_logprobs_of(choice.logprobs))


def _logprobs_of(told: _Logprobs | None) -> Iterator[float]:
    if told is None:
        return
    for each in told.content or ():
        if each.logprob is not None:
            yield each.logprob
    for logprob in told.token_logprobs or ():
        if logprob is not None:
            yield logprob


def why_not_good(spec: CascadeSpec, answer: FirstAnswer, wants_json: bool) -> str:
    """ "" for a good one."""
    for seen in answer.choices.values():
        text = seen.text.lstrip()
        if seen.refused or (text and text.startswith(spec.refusals)):
            return "refusal"
        if spec.invalid_json and wants_json and not seen.calls and not _may_be_json(text, is_whole=answer.is_whole):
            return "invalid JSON"
        below = spec.mean_logprob_below
        if below is not None and seen.logprobs and sum(seen.logprobs) / len(seen.logprobs) < below:
            return "low confidence"
    return ""


def _may_be_json(text: str, *, is_whole: bool) -> bool:
    """Of one that goes on, the first character tells."""
    if not is_whole:
        return not text or text[0] in _JSON_BEGINS
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
