"""Many texts, or pairs of texts, through the tokenizers library at once."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Encoding, Tokenizer

from pilotlight_protocol.errors import PayloadTooLarge
from pilotlight_text.text_model import DEFAULT_CHARS_LIMIT, TextCodec

MOST_CHARS = 4 * DEFAULT_CHARS_LIMIT
Texts = Sequence[str] | Sequence[tuple[str, str]]


class Encodings:
    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec

    async def of(self, texts: Texts, *, special: bool, param: str, with_offsets: bool = False) -> list[Encoding]:
        """Raises PayloadTooLarge naming `param`, InvalidInput where the library fails."""
        chars = sum(len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts)
        if chars > MOST_CHARS:
            raise PayloadTooLarge(
                f"'{param}' has {chars} characters with what it is paired with; at most {MOST_CHARS} are taken",
                param=param,
            )

        def encode(tokenizer: Tokenizer) -> list[Encoding]:
            batch = tokenizer.encode_batch if with_offsets else tokenizer.encode_batch_fast
            encodings: list[Encoding] = batch(list(texts), add_special_tokens=special)
            return encodings

        return await self._codec.with_tokenizer(encode, chars)

    async def around(self, first: Encoding, second: Encoding | None = None) -> Encoding:
        """With the special tokens of a text, or of a pair."""

        def process(tokenizer: Tokenizer) -> Encoding:
            return tokenizer.post_process(first, second, True)

        return await self._codec.with_tokenizer(process, 0)

    async def special_tokens(self, *, pair: bool) -> int:
        """How many go around them."""

        def count(tokenizer: Tokenizer) -> int:
            return int(tokenizer.num_special_tokens_to_add(pair))

        return await self._codec.with_tokenizer(count, 0)
