"""Token events of one choice to text: detokenized, cut at a stop string, with the reason why it ended.

Pure. Responsible for what a client sees of a choice and for how many tokens it is billed.
"""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import FinishReason, TokenEvent, TokenLogprob
from pilotlight_text.detokenization.detokenizer import Detokenizer
from pilotlight_text.detokenization.stop_strings import StopScanner


@dataclass(slots=True)
class Piece:
    """New text of a choice. `stop_reason`: the stop string or token id that ended it, None for end-of-sequence."""

    index: int
    text: str
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


class ChoiceText:
    """`push` every event of the choice, in order, until `finished`.

    With stop strings tokens are looked at one by one, so that the count ends with the token that completed the match,
    however the events were coalesced; before `min_tokens` none is looked for (vLLM does the same). The token that ended
    a generation (end of sequence, a stop token) is counted and not shown.
    """

    __slots__ = (
        "_detokenizer",
        "_min_tokens",
        "_scanner",
        "_show_stop_token",
        "completion_tokens",
        "finished",
        "index",
    )

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer,
        scanner: StopScanner | None = None,
        *,
        min_tokens: int = 0,
        show_stop_token: bool = False,
    ) -> None:
        self.index = index
        self.finished = False
        self.completion_tokens = 0
        self._detokenizer = detokenizer
        self._scanner = scanner
        self._min_tokens = min_tokens
        self._show_stop_token = show_stop_token

    def push(self, event: TokenEvent) -> Piece:
        """The piece of one event. Raises Unavailable when the predictor gave the generation up."""
        ids = event.output_ids
        reason = event.finish_reason
        if reason is None and self._scanner is None:
            self.completion_tokens += len(ids)
            return Piece(self.index, self._detokenizer.push(ids), event.logprobs)
        if reason == "abort":
            raise Unavailable("the predictor gave this generation up before it was complete; try again")
        shown = ids[:-1] if reason == "stop" and not self._show_stop_token else ids
        if self._scanner is None:
            self.completion_tokens += len(ids)
            text = self._detokenizer.push(shown) if shown else ""
        else:
            text, seen = self._scan(self._scanner, shown)
            if self._scanner.matched is not None:
                self.finished = True
                self.completion_tokens += seen
                logprobs = event.logprobs[:seen] if event.logprobs is not None else None
                return Piece(self.index, text, logprobs, "stop", self._scanner.matched)
            self.completion_tokens += len(ids)
        if reason is None:
            return Piece(self.index, text, event.logprobs)
        self.finished = True
        return self._last(text + self._detokenizer.finish() if self._scanner is None else text, event, reason)

    def _scan(self, scanner: StopScanner, ids: list[int]) -> tuple[str, int]:
        """Text that may be shown and how many of `ids` were looked at until a match."""
        parts = []
        for seen, token_id in enumerate(ids, start=1):
            text = self._detokenizer.push((token_id,))
            if self.completion_tokens + seen <= self._min_tokens:
                parts.append(text)
                continue
            if text:
                parts.append(scanner.push(text))
                if scanner.matched is not None:
                    return "".join(parts), seen
        return "".join(parts), len(ids)

    def _last(self, text: str, event: TokenEvent, reason: FinishReason) -> Piece:
        stop_reason: str | int | None = event.stop_reason
        if self._scanner is not None:
            text += self._scanner.push(self._detokenizer.finish())
            text += self._scanner.finish()
            if self._scanner.matched is not None:
                reason, stop_reason = "stop", self._scanner.matched
        return Piece(self.index, text, event.logprobs, reason, stop_reason)
