"""The predictor's model over a scripted engine, and requests to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from scripted_engine import ScriptedProvider

from pilotlight_engine.admission import QueueLimits, RequestLimits
from pilotlight_engine.leasing.engine_holder import EngineHolder
from pilotlight_predictor.tokens_model import TokensModel
from pilotlight_protocol.v2 import InferRequest, Tensor
from pilotlight_wire.handlers import RequestContext


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 the fakes have no event to wait for
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def serving(
    provider: ScriptedProvider, queue: QueueLimits | None = None
) -> AsyncIterator[tuple[TokensModel, asyncio.Task[None]]]:
    holder = EngineHolder(provider)
    model = TokensModel("m", holder, RequestLimits(), queue or QueueLimits(), ["adapter"])
    task = asyncio.create_task(holder.run())
    try:
        await until(lambda: model.ready() or task.done())
        yield model, task
    finally:
        task.cancel()
        await asyncio.wait({task})


def context(body: dict[str, Any] | None = None, name: str = "m") -> RequestContext:
    return RequestContext("r", {}, body=msgspec.json.encode(body or {}), model_name=name)


def infer_request(rows: list[list[int]], **parameters: Any) -> InferRequest:
    return InferRequest(
        [Tensor("input_ids", "INT32", [len(rows), len(rows[0])], [token for row in rows for token in row])],
        parameters=parameters,
    )
