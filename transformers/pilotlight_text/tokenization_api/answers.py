"""The answers of /tokenize and /detokenize. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class Tokenized(msgspec.Struct):
    """`max_model_len` is left out where only the predictor knows it; `token_strs` is null unless it is asked for."""

    count: Count
    tokens: list[Count]
    token_strs: list[str] | None
    max_model_len: Count | msgspec.UnsetType = msgspec.UNSET


class Detokenized(msgspec.Struct):
    prompt: str
