"""How urgent a request is, as hops tell each other, and what that comes to in an engine's own order. Pure.

    high  normal  low    a share of the capacity is every class's
    idle                 what nobody else wants: batches

Inside a class a request's own `priority` (vLLM's field, the lowest first) decides, within bounds that keep it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar, get_args

import msgspec

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_protocol.pooling import PoolingParameters

PRIORITY_HEADER = "x-pilotlight-priority"
"""Of a client's request: the class it asks for. Between hops: the class it has, as a gateway says."""

RequestPriority = Literal["high", "normal", "low", "idle"]
PRIORITIES: tuple[RequestPriority, ...] = get_args(RequestPriority)
RANK: Mapping[str, int] = {name: rank for rank, name in enumerate(PRIORITIES)}

_STEP = 1000
_MOST_OWN = _STEP // 2 - 1


_Parameters = TypeVar("_Parameters", GenerationParameters, PoolingParameters)


def in_class(parameters: _Parameters, headers: Mapping[str, str]) -> _Parameters:
    """With the engine's priority of the request's class; where no gateway said one, the request's own is it."""
    rank = RANK.get(headers.get(PRIORITY_HEADER, ""))
    if rank is None:
        return parameters
    own = parameters.priority
    priority = (rank - RANK["normal"]) * _STEP + max(-_MOST_OWN, min(_MOST_OWN, own))
    return parameters if priority == own else msgspec.structs.replace(parameters, priority=priority)
