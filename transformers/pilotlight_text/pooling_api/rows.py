"""Texts to the rows of tokens that a pooling model reads: special tokens, pairs, and what is cut off on request.

What is too long and may not be cut is refused here, with its length, before an engine is woken for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight_protocol.errors import ContextLengthExceeded, InvalidInput, PayloadTooLarge
from pilotlight_text.pooling_source import PoolingRow
from pilotlight_text.text_model import DEFAULT_CHARS_LIMIT, LoadedText
from pilotlight_text.tokenization.pooling_traits import PoolingTraits
from pilotlight_text.tokenization.tokenizer_jobs import NoRoom, Rows, Side, TokenRow

MOST_CHARS = 4 * DEFAULT_CHARS_LIMIT


@dataclass(frozen=True, slots=True)
class Cut:
    """How long a row may be in tokens, special ones included, and from which side it is cut; `tokens` None: what is
    too long is refused, -1: the model's length."""

    tokens: int | None = None
    side: Side = "right"


class RowMaker:
    """`traits`: the loaded model's."""

    def __init__(self, loaded: LoadedText, traits: PoolingTraits, cut: Cut) -> None:
        self._encoder = loaded.codec.encoder
        self._traits = traits
        self._longest = loaded.codec.max_model_len
        self._cut = cut
        if cut.tokens is not None and self._longest is not None and cut.tokens > self._longest:
            raise InvalidInput(
                f"'truncate_prompt_tokens' is {cut.tokens}; this model reads at most {self._longest} tokens",
                param="truncate_prompt_tokens",
            )

    async def of_texts(self, texts: Sequence[str], *, special: bool, param: str) -> list[PoolingRow]:
        """Raises InvalidInput naming `param`, PayloadTooLarge."""
        given = [self._spelled(text) for text in texts]
        made = await self._rows(Rows(given, None, special, self._most, self._cut.side), param)
        return [PoolingRow(self._checked(row.ids, param)) for row in made]

    def of_ids(self, ids: list[int], *, param: str) -> PoolingRow:
        most = self._most
        if most is not None and len(ids) > most:
            ids = ids[-most:] if self._cut.side == "left" else ids[:most]
        return PoolingRow(self._checked(ids, param))

    async def of_pairs(self, pairs: Sequence[tuple[str, str]], *, param: str) -> list[PoolingRow]:
        """As a cross-encoder reads them, in one row each."""
        if not self._traits.reads_pairs:
            raise InvalidInput("this model reads no pairs of texts: scores are of cross-encoders", param="model")
        firsts, seconds = ([self._spelled(pair[side]) for pair in pairs] for side in (0, 1))
        made = await self._rows(Rows(firsts, seconds, True, self._most, self._cut.side), param)
        apart = self._traits.tells_pairs_apart
        return [PoolingRow(self._checked(row.ids, param), row.pair_start if apart else None) for row in made]

    async def shortened(self, texts: Sequence[str], most: int | None, param: str) -> list[str]:
        """Each text up to its first `most` tokens; None or 0 shortens nothing. Raises PayloadTooLarge."""
        if not most:
            return list(texts)
        _check_chars(sum(map(len, texts)), param)
        return await self._encoder.shortened(texts, most)

    async def _rows(self, asked: Rows, param: str) -> list[TokenRow]:
        _check_chars(asked.chars, param)
        try:
            return await self._encoder.rows(asked)
        except NoRoom:
            raise InvalidInput(
                f"'truncate_prompt_tokens' {self._most} leaves no token between the special ones",
                param="truncate_prompt_tokens",
            ) from None

    def _spelled(self, text: str) -> str:
        return text.lower() if self._traits.lower_case else text

    @property
    def _most(self) -> int | None:
        """Tokens that are left of a longer row; None where all are."""
        return self._longest if self._cut.tokens == -1 else self._cut.tokens

    def _checked(self, ids: list[int], param: str) -> list[int]:
        if not ids:
            raise InvalidInput(f"'{param}' is empty: send at least one token", param=param)
        if self._longest is not None and len(ids) > self._longest:
            raise ContextLengthExceeded.of(self._longest, len(ids), None, param)
        return ids


def _check_chars(chars: int, param: str) -> None:
    if chars > MOST_CHARS:
        raise PayloadTooLarge(
            f"'{param}' has {chars} characters with what it is paired with; at most {MOST_CHARS} are taken", param=param
        )
