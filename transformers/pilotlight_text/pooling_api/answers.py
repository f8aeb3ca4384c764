"""The answers of /embeddings, /rerank and /score. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]


class PromptUsage(msgspec.Struct):
    """Nothing is generated: all tokens are the prompts'."""

    prompt_tokens: Count
    total_tokens: Count
    completion_tokens: Count = 0


class Embedding(msgspec.Struct):
    """`embedding`: numbers, or base64 of little-endian float32."""

    index: Count
    object: Literal["embedding"]
    embedding: list[float] | str


class EmbeddingList(msgspec.Struct):
    id: str
    object: Literal["list"]
    created: Count
    model: str
    data: list[Embedding]
    usage: PromptUsage


class RankedDocument(msgspec.Struct):
    text: str


class Ranked(msgspec.Struct):
    """`index`: the document's place in the request."""

    index: Count
    relevance_score: float
    document: RankedDocument | msgspec.UnsetType = msgspec.UNSET


class Ranking(msgspec.Struct):
    """The most relevant first."""

    id: str
    model: str
    usage: PromptUsage
    results: list[Ranked]


class Score(msgspec.Struct):
    index: Count
    object: Literal["score"]
    score: float


class ScoreList(msgspec.Struct):
    id: str
    object: Literal["list"]
    created: Count
    model: str
    data: list[Score]
    usage: PromptUsage
