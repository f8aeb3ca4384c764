"""A prompt cut to a number of tokens, as a request's `truncate_prompt_tokens` and `truncation_side` say. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pilotlight_protocol.errors import InvalidInput

PARAM = "truncate_prompt_tokens"


@dataclass(frozen=True, slots=True)
class Truncation:
    """`tokens`: how many are kept; -1 is all that leave the context `room` tokens for the answer. `side`: where it is
    cut; "left" keeps the end of the prompt (vLLM's default for models that generate)."""

    tokens: int
    side: Literal["left", "right"] = "left"
    room: int = 1

    def of(self, ids: Sequence[int], context: int | None) -> list[int]:
        """`context`: the model's length in tokens, None where it is not known here. Raises InvalidInput."""
        kept = self.tokens
        if kept == -1:
            if context is None:
                raise InvalidInput(
                    f"'{PARAM}' -1 needs the context length, which is not known here; send a number of tokens",
                    param=PARAM,
                )
            kept = max(0, context - self.room)
        elif context is not None and kept > context:
            raise InvalidInput(
                f"'{PARAM}' is {kept}; this model's maximum context length is {context} tokens", param=PARAM
            )
        if kept == 0:
            raise InvalidInput(f"'{PARAM}' leaves no token of the prompt", param=PARAM)
        return list(ids[-kept:] if self.side == "left" else ids[:kept])
