"""What a pooling model is asked and what comes back: one vector per prompt, an embedding or scores. Pure.

Responsible for the parameters' names and ranges, as `generation` is for those of a model that generates.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import INT32_MAX

PoolingTask = Literal["embed", "classify"]

# The tensors of V2, besides those of a generating model's prompts.
EMBEDDING = "embedding"
SCORE = "score"
PAIR_STARTS = "pair_starts"


class PoolingParameters(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """`task`: what is wanted, None for what the model does. `dimensions`: the first so many of a Matryoshka embedding.
    `use_activation`: normalize an embedding, or make scores of a classifier's logits; None as the model's files say.
    """

    task: PoolingTask | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=INT32_MAX)] | None = None
    use_activation: bool | None = None
    priority: Annotated[int, msgspec.Meta(ge=-INT32_MAX, le=INT32_MAX)] = 0
    cache_salt: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None


class PoolRequest(msgspec.Struct, array_like=True):
    """One prompt: int[seq]. `pair_start`: where the second of two texts begins, whose tokens are of type 1; None where
    the prompt is one text, or its model knows no types."""

    request_id: str
    prompt_token_ids: list[int]
    parameters: PoolingParameters
    pair_start: int | None = None
    traceparent: str | None = None


class PooledVector(msgspec.Struct, array_like=True):
    """`values`: FP32, little-endian. `cached_tokens`: of the prompt's, those whose keys were there already."""

    values: bytes
    prompt_tokens: int
    cached_tokens: int = 0

    def floats(self) -> tuple[float, ...]:
        return struct.unpack(f"<{len(self.values) // 4}f", self.values)


class PoolingInfo(msgspec.Struct, array_like=True):
    """What a pooling model does. `size`: of its embeddings, or how many labels it scores. `dimensions`: the shorter
    embeddings it may be asked for: none, any (an empty list), or these."""

    task: PoolingTask
    size: int
    dimensions: list[int] | None = None


_NAMES = PoolingParameters.__struct_fields__
_WHOLE = frozenset({"dimensions", "priority"})


def parse_pooling_parameters(raw: Mapping[str, Any]) -> PoolingParameters:
    """Check V2's `parameters` of a pooling request. Raises InvalidInput that names the parameter."""
    for name in raw:
        if name not in _NAMES:
            raise InvalidInput(
                f"'{name}' is no parameter of a pooling model, which generates nothing; known: {', '.join(_NAMES)}",
                param=name,
            )
    # gRPC and JavaScript clients send whole numbers as floats.
    values = {
        name: int(value) if name in _WHOLE and isinstance(value, float) and value.is_integer() else value
        for name, value in raw.items()
        if value is not None
    }
    try:
        return msgspec.convert(values, PoolingParameters)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        raise InvalidInput(f"parameter '{name}': {message[:1].lower()}{message[1:]}", param=name) from None


def check_pooling(parameters: PoolingParameters, info: PoolingInfo) -> None:
    """Raises InvalidInput for what this model cannot do."""
    if parameters.task is not None and parameters.task != info.task:
        does = "embeddings, and no scores" if info.task == "embed" else "scores, and no embeddings"
        raise InvalidInput(f"this model makes {does}", param="model")
    wanted = parameters.dimensions
    if wanted is None:
        return
    if info.task != "embed" or info.dimensions is None:
        raise InvalidInput(
            f"'dimensions' is {wanted}, but this model's vectors cannot be shortened: leave it out", param="dimensions"
        )
    if wanted > info.size or (info.dimensions and wanted not in info.dimensions):
        known = ", ".join(map(str, info.dimensions)) or f"1 to {info.size}"
        raise InvalidInput(f"'dimensions' is {wanted}; this model makes {known}", param="dimensions")


def not_pooling() -> InvalidInput:
    return InvalidInput("this model generates text: it makes neither embeddings nor scores", param="model")


def not_generating(task: PoolingTask) -> InvalidInput:
    does, route = ("embeddings", "/openai/v1/embeddings") if task == "embed" else ("scores", "/openai/v1/score")
    return InvalidInput(f"this model makes {does} and generates no text; use {route}", param="model")
