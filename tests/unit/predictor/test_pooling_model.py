"""The predictor of a pooling model over a scripted engine: V2's tensors, what is refused by name, admission."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scripted_engine import LOST, REFUSED, VECTOR_SIZE, ScriptedProvider
from served_tokens_model import context, infer_request, serving, until

from pilotlight_engine.admission import QueueLimits
from pilotlight_predictor.tokens_model import TokensModel
from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge, PilotlightError, Unavailable
from pilotlight_protocol.pooling import PoolingInfo
from pilotlight_protocol.v2 import InferRequest, Tensor
from pilotlight_wire.handlers import TensorMetadata

EMBEDS = PoolingInfo("embed", VECTOR_SIZE)
SCORES = PoolingInfo("classify", 4)


def with_pairs(rows: list[list[int]], starts: list[int], datatype: str = "INT32") -> InferRequest:
    request = infer_request(rows)
    request.inputs.append(Tensor("pair_starts", datatype, [len(starts)], starts))
    return request


@pytest.mark.parametrize(("pooling", "name"), [(EMBEDS, "embedding"), (SCORES, "score")])
async def test_a_row_has_a_vector(pooling: PoolingInfo, name: str) -> None:
    async with serving(ScriptedProvider(pooling=pooling)) as (model, _):
        assert model.metadata().outputs == (TensorMetadata(name, "FP32", (-1, 4)),)
        assert [tensor.name for tensor in model.metadata().inputs] == ["input_ids", "input_lengths", "pair_starts"]
        response = await model.infer(infer_request([[1, 2], [5, 6]], task=pooling.task), context())
    (output,) = response.outputs
    assert (output.name, output.datatype, output.shape) == (name, "FP32", [2, 4])
    assert output.data == [2.0, 3.0, 2.0, -1.0, 2.0, 11.0, 6.0, -1.0]
    assert response.parameters == {"prompt_tokens": 4, "cached_tokens": 0}


async def test_rows_of_two_lengths_and_pairs() -> None:
    async with serving(ScriptedProvider(pooling=SCORES)) as (model, _):
        request = with_pairs([[1, 2, 3], [4, 5, 0]], [2, -1])
        request.inputs.append(Tensor("input_lengths", "INT32", [2], [3, 2]))
        response = await model.infer(request, context())
    assert response.outputs[0].data == [3.0, 6.0, 3.0, 2.0, 2.0, 9.0, 5.0, -1.0]


async def test_a_shorter_embedding_where_the_model_makes_some() -> None:
    async with serving(ScriptedProvider(pooling=PoolingInfo("embed", 4, [2, 3]))) as (model, _):
        response = await model.infer(infer_request([[7]], dimensions=2.0), context())
        assert (response.outputs[0].shape, response.outputs[0].data) == ([1, 2], [1.0, 7.0])
        with pytest.raises(InvalidInput, match="makes 2, 3"):
            await model.infer(infer_request([[7]], dimensions=1), context())


@pytest.mark.parametrize(
    ("rows", "parameters", "param", "error"),
    [
        ([[7]], {"dimensions": 2}, "dimensions", InvalidInput),
        ([[7]], {"task": "classify"}, "model", InvalidInput),
        ([[7]], {"task": "chat"}, "task", InvalidInput),
        ([[7]], {"max_tokens": 2}, "max_tokens", InvalidInput),
        ([[7]], {"temperature": 0.5}, "temperature", InvalidInput),
        ([[7]], {"use_activation": "yes"}, "use_activation", InvalidInput),
        ([[1000]], {}, "input_ids", InvalidInput),
        ([[1] * 513], {}, "input_ids", InvalidInput),
        ([[1]] * 65, {}, "input_ids", PayloadTooLarge),
        ([[REFUSED]], {}, None, InvalidInput),
    ],
)
async def test_what_it_cannot_do_is_named(
    rows: list[list[int]], parameters: dict[str, Any], param: str | None, error: type[PilotlightError]
) -> None:
    async with serving(ScriptedProvider(pooling=EMBEDS)) as (model, _):
        with pytest.raises(error) as caught:
            await model.infer(infer_request(rows, **parameters), context())
        assert caught.value.param == param


@pytest.mark.parametrize(
    "request_", [with_pairs([[1]], [2]), with_pairs([[1]], [0, 0]), with_pairs([[1]], [0], "FP32")]
)
async def test_a_pair_that_cannot_be(request_: InferRequest) -> None:
    async with serving(ScriptedProvider(pooling=SCORES)) as (model, _):
        with pytest.raises(InvalidInput) as caught:
            await model.infer(request_, context())
        assert caught.value.param == "pair_starts"


async def test_a_prompt_may_fill_the_context() -> None:
    async with serving(ScriptedProvider(pooling=EMBEDS)) as (model, _):
        response = await model.infer(infer_request([[1] * 512]), context())
        assert response.outputs[0].data[0] == 512.0


async def generated(model: TokensModel) -> None:
    await model.generate(context({"input_ids": [1], "parameters": {"max_tokens": 1}}))


async def streamed(model: TokensModel) -> None:
    await model.generate_stream(context({"input_ids": [1]}))


async def inferred_as_a_stream(model: TokensModel) -> None:
    async for _ in model.stream_infer(infer_request([[1]]), context()):
        pass


@pytest.mark.parametrize("ask", [generated, streamed, inferred_as_a_stream])
async def test_it_generates_nothing_and_says_where_to_go(ask: Any) -> None:
    async with serving(ScriptedProvider(pooling=EMBEDS)) as (model, _):
        with pytest.raises(InvalidInput, match="generates no text; use /openai/v1/embeddings") as caught:
            await ask(model)
        assert caught.value.param == "model"


async def test_a_model_that_generates_makes_no_vectors() -> None:
    async with serving(ScriptedProvider()) as (model, _):
        with pytest.raises(InvalidInput, match="neither embeddings nor scores"):
            await model.infer(infer_request([[1]], task="embed"), context())


async def test_a_lost_engine_is_replaced_and_asked_again() -> None:
    provider = ScriptedProvider(pooling=EMBEDS, step_s=0.0)
    async with serving(provider) as (model, _):
        with pytest.raises(Unavailable):
            await model.infer(infer_request([[LOST]]), context())
        await until(model.ready)
        assert (await model.infer(infer_request([[1]]), context())).outputs[0].data[0] == 1.0


@pytest.mark.looptime
async def test_a_full_queue_says_when_to_come_back_and_an_encoder_has_no_cache_to_fill() -> None:
    provider = ScriptedProvider(pooling=EMBEDS, step_s=0.02)
    async with serving(provider, QueueLimits(max_queue=4)) as (model, _):
        provider.engines[0].info.num_kv_blocks = 0
        running = asyncio.create_task(model.infer(infer_request([[1]] * 3), context()))
        await until(lambda: provider.engines[0].active == 3)
        with pytest.raises(Unavailable, match="wait for the engine") as caught:
            await model.infer(infer_request([[1]] * 2), context())
        assert caught.value.retry_after_s >= 1
        also = await model.infer(infer_request([[2]]), context())
        assert (also.outputs[0].shape, (await running).outputs[0].shape) == ([1, 4], [3, 4])


async def test_who_stops_waiting_ends_every_row() -> None:
    provider = ScriptedProvider(pooling=EMBEDS, step_s=30)
    async with serving(provider) as (model, _):
        waiting = asyncio.create_task(model.infer(infer_request([[1], [2]]), context()))
        await until(lambda: provider.engines[0].active == 2)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert provider.engines[0].active == 0
