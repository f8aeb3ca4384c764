"""Tokens of an engine in this process: the conformance suite over the scripted engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from scripted_engine import REFUSED, VECTOR_SIZE, ScriptedProvider
from token_source_conformance import Running, TokenSourceConformance, asked, ready_holder, running_on

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.pooling import PooledVector, PoolingInfo, PoolingParameters
from pilotlight_text.leased_engine_source import LeasedEngineSource
from pilotlight_text.pooling_source import PoolingCall, PoolingRow

pytestmark = pytest.mark.looptime


@pytest.fixture
def has_logprobs() -> bool:
    return True


@pytest.fixture
def streams_are_silent() -> bool:
    return False


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture
async def source(provider: ScriptedProvider) -> AsyncIterator[LeasedEngineSource]:
    async with ready_holder(provider) as holder:
        yield LeasedEngineSource(holder, "demo")


@pytest.fixture
def running(provider: ScriptedProvider) -> Running:
    return running_on(provider)


class TestLeasedEngineSource(TokenSourceConformance):
    pass


async def test_one_id_twice_is_two_requests(provider: ScriptedProvider, source: LeasedEngineSource) -> None:
    streams = [await source.stream(asked([1], max_tokens=3)) for _ in range(2)]
    for stream in streams:
        await stream.close()
    (engine,) = provider.engines
    assert len({request.request_id for request in engine.seen}) == 2


async def test_vectors_of_an_engine_in_this_process() -> None:
    provider = ScriptedProvider(pooling=PoolingInfo("embed", VECTOR_SIZE))
    async with ready_holder(provider) as holder:
        source = LeasedEngineSource(holder, "demo")
        call = PoolingCall("demo", "r", [PoolingRow([1, 2]), PoolingRow([7], 0)], PoolingParameters())
        answer = await source.pool(call)
        assert [PooledVector(vector, 1).floats() for vector in answer.vectors] == [(2, 3, 2, -1), (1, 7, 7, 0)]
        assert "prefill" in answer.facts.phases_ms
        assert len({request.request_id for request in provider.engines[0].pooled}) == 2
        with pytest.raises(InvalidInput, match="refuses"):
            await source.pool(PoolingCall("demo", "r", [PoolingRow([1]), PoolingRow([REFUSED])], PoolingParameters()))
