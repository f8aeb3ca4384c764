"""The seam above a tokenizer: text goes in, token ids come out, wherever the tokenizer is.

No I/O is done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.tokenization.tokenizer_jobs import (
    Ids,
    Job,
    Rows,
    Shortened,
    Starts,
    TokenRow,
)


class TextEncoder(Protocol):
    """Raises InvalidInput (the tokenizer fails on this text, or takes too long for it), Unavailable."""

    async def ids(self, text: str, special: bool) -> list[int]:
        """int[seq]; `special`: with the special tokens that belong around a text."""
        ...

    async def ids_of_each(self, texts: Sequence[str]) -> list[list[int]]:
        """Nothing around them."""
        ...

    async def starts(self, text: str, special: bool) -> list[int]:
        """Where in `text` each of its tokens begins, in characters: int[seq]."""
        ...

    async def rows(self, asked: Rows) -> list[TokenRow]:
        """Raises NoRoom, too."""
        ...

    async def shortened(self, texts: Sequence[str], most: int) -> list[str]:
        """Each text up to its first `most` tokens."""
        ...

    def close(self) -> None: ...


class JobEncoder:
    """A `TextEncoder` of one way to have jobs done."""

    async def done(self, job: Job) -> Any:
        raise NotImplementedError

    async def ids(self, text: str, special: bool) -> list[int]:
        (ids,) = await self.done(Ids([text], special))
        return cast(list[int], ids)

    async def ids_of_each(self, texts: Sequence[str]) -> list[list[int]]:
        return cast(list[list[int]], await self.done(Ids(list(texts), False)))

    async def starts(self, text: str, special: bool) -> list[int]:
        return cast(list[int], await self.done(Starts(text, special)))

    async def rows(self, asked: Rows) -> list[TokenRow]:
        return cast(list[TokenRow], await self.done(asked))

    async def shortened(self, texts: Sequence[str], most: int) -> list[str]:
        return cast(list[str], await self.done(Shortened(list(texts), most)))


def tokenizer_fails() -> InvalidInput:
    return InvalidInput("the model's tokenizer fails on this text")
