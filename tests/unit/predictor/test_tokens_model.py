"""The predictor's model over a scripted engine: fan-out, aborts, admission, and a lost engine's replacement."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest
from scripted_engine import LOST, REFUSED, ScriptedProvider
from served_tokens_model import context, infer_request, serving, until

from pilotlight_engine.admission import QueueLimits, RequestLimits
from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_engine.leasing.engine_holder import EngineHolder
from pilotlight_predictor.tokens_model import TokensModel
from pilotlight_protocol.errors import InvalidInput, ModelNotFound, Unavailable
from pilotlight_wire.handlers import Reply, Stream


async def test_a_batch_is_answered_row_by_row() -> None:
    async with serving(ScriptedProvider()) as (model, _):
        response = await model.infer(infer_request([[1, 2], [5, 996]], max_tokens=4), context())
    ids, lengths, reasons = (tensor.data for tensor in response.outputs)
    assert ids == [3, 4, 5, 6, 997, 998, 999, 0]
    assert lengths == [4, 3]
    assert reasons == [b"length", b"stop"]


async def test_choices_are_rows_behind_one_another() -> None:
    async with serving(ScriptedProvider()) as (model, _):
        response = await model.infer(infer_request([[1], [5]], max_tokens=1, n=2), context())
    assert (response.outputs[0].shape, response.outputs[0].data) == ([4, 1], [2, 2, 6, 6])


async def test_one_failing_row_aborts_the_others() -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (model, _):
        with pytest.raises(InvalidInput, match="refuses"):
            await model.infer(infer_request([[1, 2], [1, REFUSED]], max_tokens=400), context())
        assert provider.engines[0].active == 0


async def test_a_cancelled_call_aborts_every_row() -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (model, _):
        call = asyncio.create_task(model.infer(infer_request([[1], [2], [3]], max_tokens=500), context()))
        await until(lambda: provider.engines[0].active == 3)
        call.cancel()
        await asyncio.wait({call})
        assert provider.engines[0].active == 0
        assert len(provider.engines[0].aborted) == 3


async def test_generate_has_usage_and_the_first_choice_on_top() -> None:
    async with serving(ScriptedProvider()) as (model, _):
        reply = await model.generate(context({"id": "x", "input_ids": [1, 2], "parameters": {"max_tokens": 2, "n": 2}}))
    assert isinstance(reply, Reply)
    answer = msgspec.json.decode(reply.body)
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "cached_tokens": 0}
    assert (answer["id"], answer["output_ids"], answer["finish_reason"]) == ("x", [3, 4], "length")
    assert [output["index"] for output in answer["outputs"]] == [0, 1]


async def test_prefixes_are_found_by_their_own_tenants_requests_alone() -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (model, _):
        for tenant in ("a", "b"):
            for ask, body in (
                (model.generate, {"input_ids": [1]}),
                (model.generate_stream, {"input_ids": [1]}),
                (model.generate_tokens, {"token_ids": [1], "sampling_params": {}}),
            ):
                given = context(body)
                given.headers = {"x-pilotlight-tenant": tenant}
                answer = await ask(given)
                if isinstance(answer, Stream):
                    assert [event async for event in answer.events]
            given = context()
            given.headers = {"x-pilotlight-tenant": tenant}
            await model.infer(infer_request([[1]]), given)
        salts = [request.parameters.cache_salt for request in provider.engines[0].seen]
    assert len(salts) == 8
    assert set(salts[:4]).isdisjoint(salts[4:])
    assert len(set(salts)) == 2


async def events(model: TokensModel, body: dict[str, Any]) -> list[dict[str, Any]]:
    given = context(body)
    stream = await model.generate_stream(given)
    assert isinstance(stream, Stream)
    chunks = [chunk async for chunk in stream.events]
    assert given.server_timing["prefill"] >= 0
    return [msgspec.json.decode(event[6:]) for chunk in chunks for event in chunk.split(b"\n\n") if event]


async def test_a_stream_has_the_prompts_size_first_and_the_reason_last() -> None:
    async with serving(ScriptedProvider()) as (model, _):
        told = await events(model, {"input_ids": [1, 2], "parameters": {"max_tokens": 3, "logprobs": 1}})
    assert [event["output_ids"] for event in told] == [[3], [4], [5]]
    assert told[0]["prompt_tokens"] == 2
    assert told[-1]["finish_reason"] == "length"
    assert told[1]["logprobs"][0]["token_id"] == 4


def tokens_body(**fields: Any) -> dict[str, Any]:
    sampling = {"max_tokens": 2, "stop": [], "detokenize": True, "top_k": 0, "output_kind": 2, "temperature": 0.5}
    return {"token_ids": [1, 2], "sampling_params": sampling, "request_id": "x", **fields}


async def test_tokens_in_and_tokens_out_as_vllm_writes_them() -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (model, _):
        sampling = {**tokens_body()["sampling_params"], "n": 2, "logprobs": 1}
        reply = await model.generate_tokens(
            context(tokens_body(sampling_params=sampling, model="adapter", return_token_ids=True), "")
        )
    assert isinstance(reply, Reply)
    answer = msgspec.json.decode(reply.body)
    assert [(choice["index"], choice["token_ids"], choice["finish_reason"]) for choice in answer["choices"]] == [
        (0, [3, 4], "length"),
        (1, [3, 4], "length"),
    ]
    assert answer["choices"][0]["logprobs"]["content"][1]["token_id"] == 4
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    assert (answer["request_id"], answer["prompt_token_ids"]) == ("generate-tokens-x", [1, 2])
    (seen,) = provider.engines[0].seen
    assert (seen.lora, seen.parameters.top_k, seen.parameters.temperature) == ("adapter", -1, 0.5)


async def test_streamed_tokens_end_with_their_usage() -> None:
    async with serving(ScriptedProvider()) as (model, _):
        body = tokens_body(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
        stream = await model.generate_tokens(context(body, ""))
        assert isinstance(stream, Stream)
        told = b"".join([chunk async for chunk in stream.events]).split(b"\n\n")
    assert told[-2:] == [b"data: [DONE]", b""]
    chunks = [msgspec.json.decode(event[6:]) for event in told[:-2]]
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks[:-1]] == [[3], [4]]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 2]
    assert (chunks[-2]["choices"][0]["finish_reason"], chunks[-1]["choices"]) == ("length", [])


async def test_what_is_not_said_has_vllms_defaults_and_not_the_models() -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (model, _):
        await model.generate_tokens(context({"token_ids": [1, 2], "sampling_params": {"max_tokens": 1}}, ""))
    parameters = provider.engines[0].seen[0].parameters
    assert (parameters.temperature, parameters.top_p, parameters.top_k) == (1.0, 1.0, -1)
    assert (parameters.min_p, parameters.repetition_penalty) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"token_ids": []}, "token_ids"),
        ({"features": {"mm_hashes": {}}}, "features"),
        ({"output_mode": "text"}, "output_mode"),
        ({"kv_transfer_params": {"a": 1}}, "kv_transfer_params"),
        ({"sampling_params": {"stop": ["x"]}}, "stop"),
        ({"sampling_params": {"thinking_token_budget": 3}}, "sampling_params"),
        ({"sampling_params": {"temperature": 9}}, "temperature"),
        ({"model": "other"}, None),
    ],
)
async def test_what_this_server_of_tokens_cannot_do_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async with serving(ScriptedProvider()) as (model, _):
        with pytest.raises((InvalidInput, ModelNotFound)) as caught:
            await model.generate_tokens(context(tokens_body(**fields), ""))
    assert caught.value.param == param


async def test_closing_a_stream_aborts_its_request() -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (model, _):
        stream = await model.generate_stream(context({"input_ids": [1], "parameters": {"max_tokens": 99}}))
        await anext(stream.events)
        await cast(Any, stream.events).aclose()
        assert provider.engines[0].aborted == [provider.engines[0].seen[0].request_id]


async def test_an_adapter_is_asked_for_by_its_name() -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (model, _):
        body = {"input_ids": [1], "parameters": {"max_tokens": 1}}
        await model.generate(context(body, "adapter"))
        await model.generate(context(body))
        assert [request.lora for request in provider.engines[0].seen] == ["adapter", None]
        assert len({request.request_id for request in provider.engines[0].seen}) == 2


async def test_a_full_queue_is_refused_with_a_time_to_wait() -> None:
    provider = ScriptedProvider()
    async with serving(provider, QueueLimits(max_queue=1)) as (model, _):
        running = asyncio.create_task(model.infer(infer_request([[1]], max_tokens=500), context()))
        await until(lambda: provider.engines[0].active == 1)
        with pytest.raises(Unavailable) as caught:
            await model.infer(infer_request([[1]], max_tokens=5), context())
        assert caught.value.retry_after_s >= 1
        running.cancel()
        await asyncio.wait({running})
        await model.infer(infer_request([[1]], max_tokens=5), context())


async def test_a_request_that_kills_every_engine_fails_and_the_next_one_is_served() -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (model, _):
        with pytest.raises(Unavailable, match=r"died.*given up after 3 resumes"):
            await events(model, {"input_ids": [LOST, 1], "parameters": {"max_tokens": 90}})
        await until(lambda: len(provider.engines) == 5 and model.ready())
        assert provider.released == provider.engines[:4]
        await events(model, {"input_ids": [1], "parameters": {"max_tokens": 1}})


async def test_before_the_engine_is_there_the_answer_says_the_phase() -> None:
    provider = ScriptedProvider(boot_s=60)
    holder = EngineHolder(provider)
    model = TokensModel("m", holder, RequestLimits(), QueueLimits())
    task = asyncio.create_task(holder.run())
    await until(lambda: provider.phase == "load")
    assert not model.ready()
    with pytest.raises(Unavailable, match="load") as caught:
        await model.infer(infer_request([[1]]), context())
    assert 1 <= caught.value.retry_after_s <= 60
    task.cancel()
    await asyncio.wait({task})


async def test_an_engine_that_can_never_start_ends_the_holder() -> None:
    provider = ScriptedProvider(refusals=[EngineMisconfigured("no such device")])
    async with serving(provider) as (_, task):
        with pytest.raises(EngineMisconfigured, match="no such device"):
            await task


async def test_unload_gives_the_engine_back_and_load_gets_another() -> None:
    provider = ScriptedProvider()
    async with serving(provider) as (model, _):
        await model.unload()
        assert not model.ready()
        assert provider.released == provider.engines
        assert "unloaded" in model.why_not_ready().message
        await model.load()
        assert model.ready()
        assert len(provider.engines) == 2


async def test_a_load_that_is_unloaded_meanwhile_says_so_and_the_loop_goes_on() -> None:
    provider = ScriptedProvider(boot_s=60)
    holder = EngineHolder(provider)
    running = asyncio.create_task(holder.run())
    await until(lambda: provider.phase == "load")
    loading = asyncio.create_task(holder.load())
    await asyncio.sleep(0)
    unloading = asyncio.create_task(holder.unload())
    with pytest.raises(Unavailable, match="the model is unloaded"):
        await asyncio.wait_for(loading, 5)
    for task in (running, unloading):
        task.cancel()
    await asyncio.wait({running, unloading})


@pytest.mark.looptime
async def test_a_load_for_which_no_engine_can_start_says_why() -> None:
    provider = ScriptedProvider(boot_s=0.01, refusals=[EngineMisconfigured("no such device")])
    holder = EngineHolder(provider)
    running = asyncio.create_task(holder.run())
    await until(lambda: provider.phase == "load")
    with pytest.raises(Unavailable, match="no such device"):
        await asyncio.wait_for(holder.load(), 5)
    with pytest.raises(EngineMisconfigured):
        await running
