"""Texts to the rows of tokens that a pooling model reads: special tokens, pairs, and what is cut off on request.

What is too long and may not be cut is refused here, with its length, before an engine is woken for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenizers import Encoding

from pilotlight_protocol.errors import ContextLengthExceeded, InvalidInput
from pilotlight_text.pooling_api.batch_encoding import Encodings
from pilotlight_text.pooling_source import PoolingRow
from pilotlight_text.text_model import LoadedText
from pilotlight_text.tokenization.pooling_traits import PoolingTraits

Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Cut:
    """How long a row may be in tokens, special ones included, and from which side it is cut; `tokens` None: what is
    too long is refused, -1: the model's length."""

    tokens: int | None = None
    side: Side = "right"


class RowMaker:
    """`traits`: the loaded model's."""

    def __init__(self, loaded: LoadedText, traits: PoolingTraits, cut: Cut) -> None:
        self._encodings = Encodings(loaded.codec)
        self._traits = traits
        self._longest = loaded.codec.max_model_len
        self._cut = cut
        if cut.tokens is not None and self._longest is not None and cut.tokens > self._longest:
            raise InvalidInput(
                f"'truncate_prompt_tokens' is {cut.tokens}; this model reads at most {self._longest} tokens",
                param="truncate_prompt_tokens",
            )

    async def of_texts(self, texts: Sequence[str], *, special: bool, param: str) -> list[PoolingRow]:
        """Raises InvalidInput naming `param`."""
        given = [self._spelled(text) for text in texts]
        encoded = await self._encodings.of(given, special=special, param=param)
        rows = []
        for text, encoding in zip(given, encoded, strict=True):
            room = self._room(len(encoding.ids))
            ids = encoding.ids if room is None else (await self._cut_text(text, room, special=special)).ids
            rows.append(PoolingRow(self._checked(ids, param)))
        return rows

    def of_ids(self, ids: list[int], *, param: str) -> PoolingRow:
        room = self._room(len(ids))
        if room is not None:
            ids = ids[-room:] if self._cut.side == "left" else ids[:room]
        return PoolingRow(self._checked(ids, param))

    async def of_pairs(self, pairs: Sequence[tuple[str, str]], *, param: str) -> list[PoolingRow]:
        """As a cross-encoder reads them, in one row each."""
        if not self._traits.reads_pairs:
            raise InvalidInput("this model reads no pairs of texts: scores are of cross-encoders", param="model")
        given = [(self._spelled(first), self._spelled(second)) for first, second in pairs]
        encoded = await self._encodings.of(given, special=True, param=param)
        rows = []
        for pair, encoding in zip(given, encoded, strict=True):
            room = self._room(len(encoding.ids))
            whole = encoding if room is None else await self._cut_pair(pair, room)
            rows.append(PoolingRow(self._checked(whole.ids, param), self._pair_start(whole)))
        return rows

    async def shortened(self, texts: Sequence[str], most: int | None, param: str) -> list[str]:
        """Each text up to its first `most` tokens; None or 0 shortens nothing."""
        if not most:
            return list(texts)
        encoded = await self._encodings.of(texts, special=False, param=param, with_offsets=True)
        return [
            text if len(encoding.ids) <= most else text[: encoding.offsets[most - 1][1]]
            for text, encoding in zip(texts, encoded, strict=True)
        ]

    def _spelled(self, text: str) -> str:
        return text.lower() if self._traits.lower_case else text

    def _room(self, length: int) -> int | None:
        """How many tokens are left of so many; None where all are."""
        wanted = self._longest if self._cut.tokens == -1 else self._cut.tokens
        return wanted if wanted is not None and length > wanted else None

    def _checked(self, ids: list[int], param: str) -> list[int]:
        if not ids:
            raise InvalidInput(f"'{param}' is empty: send at least one token", param=param)
        if self._longest is not None and len(ids) > self._longest:
            raise ContextLengthExceeded.of(self._longest, len(ids), None, param)
        return ids

    async def _cut_text(self, text: str, room: int, *, special: bool) -> Encoding:
        (bare,) = await self._encodings.of([text], special=False, param="input")
        bare.truncate(await self._left(room, pair=False) if special else room, direction=self._cut.side)
        return await self._encodings.around(bare) if special else bare

    async def _cut_pair(self, pair: tuple[str, str], room: int) -> Encoding:
        """The longer one first, as transformers' `longest_first` does."""
        first, second = await self._encodings.of(list(pair), special=False, param="text_1")
        left = await self._left(room, pair=True)
        lengths = longest_first(len(first.ids), len(second.ids), left)
        for encoding, length in zip((first, second), lengths, strict=True):
            encoding.truncate(length, direction=self._cut.side)
        return await self._encodings.around(first, second)

    async def _left(self, room: int, *, pair: bool) -> int:
        left = room - await self._encodings.special_tokens(pair=pair)
        if left < 1:
            raise InvalidInput(
                f"'truncate_prompt_tokens' {room} leaves no token between the special ones",
                param="truncate_prompt_tokens",
            )
        return left

    def _pair_start(self, encoding: Encoding) -> int | None:
        if not self._traits.tells_pairs_apart:
            return None
        types = encoding.type_ids
        return types.index(1) if 1 in types else None


def longest_first(first: int, second: int, most: int) -> tuple[int, int]:
    """What is left of two lengths when the longer one loses a token at a time until both have `most`."""
    if first + second <= most:
        return first, second
    shorter = min(first, second, most // 2)
    longer = most - shorter
    return (shorter, longer) if first <= second else (longer, shorter)
