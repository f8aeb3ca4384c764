"""POST /rerank and /score: how well texts go together, by a cross-encoder, or by the cosine of two embeddings."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.pooling_api.answers import Ranked, RankedDocument, Ranking, Score, ScoreList
from pilotlight_text.pooling_api.pooling import Clock, Pooling, floats, usage_of
from pilotlight_text.pooling_api.requests import (
    RERANK_FIELDS,
    SCORE_FIELDS,
    RerankRequest,
    ScoreRequest,
    documents_of,
    pairs_of,
    read_rerank_request,
    read_score_request,
)
from pilotlight_text.pooling_source import PoolingRow
from pilotlight_text.text_model import TextModel, timed
from pilotlight_wire.handlers import Reply, RequestContext

_encode = msgspec.json.Encoder().encode
_Scoring = RerankRequest | ScoreRequest
T = TypeVar("T")


async def rerank(model: TextModel, context: RequestContext, now_s: Clock) -> Reply:
    request = read_rerank_request(context.body)
    RERANK_FIELDS.note_in(context.body, context)
    documents = documents_of(request)
    pooling = Pooling(model, context, request.model)
    firsts = [request.query] * len(documents)
    scores, rows = await _scores(pooling, request, (firsts, documents), ("query", "documents"), context)
    shown = request.return_documents is not False
    ranked = sorted(enumerate(scores), key=lambda one: (-one[1], one[0]))[: request.top_n or None]
    results = [
        Ranked(place, score, RankedDocument(documents[place]) if shown else msgspec.UNSET) for place, score in ranked
    ]
    answer_id = f"rerank-{request.request_id or context.request_id}"
    return Reply(_encode(Ranking(answer_id, pooling.name, usage_of(rows), results)))


async def score(model: TextModel, context: RequestContext, now_s: Clock) -> Reply:
    request = read_score_request(context.body)
    SCORE_FIELDS.note_in(context.body, context)
    pairs = pairs_of(request)
    pooling = Pooling(model, context, request.model)
    scores, rows = await _scores(pooling, request, pairs, ("text_1", "text_2"), context)
    data = [Score(place, "score", value) for place, value in enumerate(scores)]
    answer_id = f"score-{request.request_id or context.request_id}"
    return Reply(_encode(ScoreList(answer_id, "list", int(now_s()), pooling.name, data, usage_of(rows))))


async def _scores(
    pooling: Pooling,
    request: _Scoring,
    pairs: tuple[list[str], list[str]],
    params: tuple[str, str],
    context: RequestContext,
) -> tuple[list[float], Sequence[PoolingRow]]:
    maker = pooling.rows(request.truncate_prompt_tokens, request.truncation_side)
    with timed(context, "tokenize"):
        limits = (request.max_tokens_per_query, request.max_tokens_per_doc)
        # One text is often scored with many others: each is cut and read once.
        firsts, seconds = [
            await maker.shortened(texts[:1] if len(set(texts)) == 1 else texts, most, param)
            for texts, most, param in zip(pairs, limits, params, strict=True)
        ]
        count = max(len(pairs[0]), len(pairs[1]))
        if pooling.traits.task == "classify":
            both = list(zip(_spread(firsts, count), _spread(seconds, count), strict=True))
            rows = await maker.of_pairs(both, param=params[1])
        else:
            first_rows = await maker.of_texts(firsts, special=True, param=params[0])
            second_rows = await maker.of_texts(seconds, special=True, param=params[1])
            rows = [*first_rows, *second_rows]
    vectors = await pooling.vectors(rows, request.parameters())
    if pooling.traits.task == "classify":
        return [_only(vector) for vector in vectors], rows
    embedded = [floats(vector) for vector in vectors]
    sides = (_spread(embedded[: len(firsts)], count), _spread(embedded[len(firsts) :], count))
    return [cosine(one, other) for one, other in zip(*sides, strict=True)], rows


def _spread(items: list[T], count: int) -> list[T]:
    return items * count if len(items) == 1 else items


def _only(vector: bytes) -> float:
    values = floats(vector)
    if len(values) != 1:
        raise InvalidInput(f"this model has {len(values)} labels; a score is of a model with one", param="model")
    return values[0]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """As torch's `cosine_similarity`: 0 where one of them is."""
    product: float = sum(map(operator.mul, one, other))
    lengths = math.hypot(*one) * math.hypot(*other)
    return product / max(lengths, 1e-8)
