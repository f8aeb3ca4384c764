"""Whether a base can be told what an adapter's tokenizer makes of a text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from tokenizers import Tokenizer


def tokenizer_obstacle(base: Tokenizer, own: Tokenizer, rows: int | None) -> str:
    """Why the base cannot be told what `own`, the adapter's tokenizer, makes of a text; "" where it can.

    `rows`: tokens that the base has weights for. Words must be the base's, as outputs are constrained by those; what is
    added on top, or has the place of what the base added, may be the adapter's.
    """
    words, own_words = _by_id(base), _by_id(own)
    rows = rows or max(words, default=-1) + 1
    without = [token_id for token_id in own_words if token_id >= rows]
    if without:
        return (
            "its tokenizer has tokens that the base has no weights for "
            f"({len(without)}, the first is {_shown(own_words[without[0]])})"
        )
    added = base.get_added_tokens_decoder()
    for token_id, word in words.items():
        if token_id not in added and own_words.get(token_id) != word:
            theirs = _shown(own_words[token_id]) if token_id in own_words else "nothing"
            return f"token {token_id} is {_shown(word)} to the base's tokenizer and {theirs} to its own"
    return ""


def token_obstacle(base: Tokenizer, tokens: Iterable[tuple[str, int]]) -> str:
    """Why an adapter without a tokenizer cannot be told a text by its base's; "" where it can. `tokens`: text and id of
    those that it says were added."""
    for text, token_id in tokens:
        if base.token_to_id(text) != token_id:
            return (
                f"it was trained with {_shown(text)} as token {token_id}, which its base's tokenizer does not have, "
                "and brings no tokenizer.json"
            )
    return ""


def _by_id(tokenizer: Tokenizer) -> dict[int, str]:
    return dict(sorted((token_id, text) for text, token_id in tokenizer.get_vocab(with_added_tokens=True).items()))


def _shown(text: str) -> str:
    return repr("".join(islice(text, 64)))
