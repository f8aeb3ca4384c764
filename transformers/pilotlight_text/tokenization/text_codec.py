"""Text to token ids, and the limits on both.

Responsible for running the `tokenizers` library where it does not hold up the event loop, and for refusing a prompt
that cannot fit before time is spent on it. It must not know about HTTP or chat messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tokenizers import Tokenizer

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.detokenization.detokenizer import Vocabulary, vocabulary_of

INLINE_CHARS = 4096
"""Longer texts are tokenized in a thread: at this length encoding takes about 1 ms, a hop to a thread 0.1–0.2 ms."""

CHARS_PER_TOKEN_LIMIT = 64
"""Text with more characters per token of context than this is refused unread. English has about 4; the longest tokens
of common vocabularies are runs of spaces (up to 128), which nobody sends alone."""

DEFAULT_CHARS_LIMIT = 4_000_000
"""Limit in characters where the context length is unknown."""


class TextCodec:
    """`max_model_len` is the context length in tokens, or None where only the predictor knows it."""

    def __init__(self, tokenizer: Tokenizer, *, max_model_len: int | None, threads: int = 4) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="tokenizer")
        self.vocabulary: Vocabulary = vocabulary_of(tokenizer)
        self.vocabulary_size: int = tokenizer.get_vocab_size()
        self.max_model_len = max_model_len
        self.max_chars = CHARS_PER_TOKEN_LIMIT * max_model_len if max_model_len else DEFAULT_CHARS_LIMIT

    async def encode(self, text: str, *, add_special_tokens: bool, param: str = "prompt") -> list[int]:
        """Token ids of `text`: int[seq]. Raises InvalidInput naming `param` when the text is empty or too long."""
        self.check_chars(len(text), param)
        if len(text) <= INLINE_CHARS:
            ids = self._encode(text, add_special_tokens)
        else:
            loop = asyncio.get_running_loop()
            ids = await loop.run_in_executor(self._pool, self._encode, text, add_special_tokens)
        self.check_ids(ids, param)
        return ids

    def check_chars(self, chars: int, param: str) -> None:
        if chars > self.max_chars:
            fits = f" (context length {self.max_model_len} tokens)" if self.max_model_len else ""
            raise InvalidInput(
                f"'{param}' has {chars} characters; at most {self.max_chars} are taken{fits}. Send a shorter prompt",
                param=param,
            )

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        if not ids:
            raise InvalidInput(f"'{param}' is empty: send at least one token", param=param)
        if self.max_model_len is not None and len(ids) >= self.max_model_len:
            raise InvalidInput(
                f"'{param}' has {len(ids)} tokens; this model's context length is {self.max_model_len} tokens, "
                "of which at least one must be left to generate. Send a shorter prompt",
                param=param,
            )

    def decode(self, ids: Sequence[int]) -> str:
        detokenizer = self.vocabulary.detokenizer()
        return detokenizer.push(ids) + detokenizer.finish() if ids else ""

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        # The batch call skips the offsets that nobody reads here: 20 % faster for one text, too.
        ids: list[int] = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        return ids
