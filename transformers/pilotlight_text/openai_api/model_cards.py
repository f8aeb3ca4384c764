"""What OpenAI's list of models says of each. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class ModelCard(msgspec.Struct):
    id: str
    object: Literal["model"]
    created: Count
    owned_by: str
    max_model_len: Count | msgspec.UnsetType = msgspec.UNSET


class ModelList(msgspec.Struct):
    object: Literal["list"]
    data: list[ModelCard]
