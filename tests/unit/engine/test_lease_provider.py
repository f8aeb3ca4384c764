"""Leasing instead of booting: grant, idle release, waiting requests, losses, a pool that is away, readiness."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from scripted_engine import ScriptedEngine
from scripted_pool import Entry, ScriptedPool, error, lease
from waiting import until_async

from pilotlight_engine.admission import QueueLimits, RequestLimits
from pilotlight_engine.errors import EngineMisconfigured
from pilotlight_engine.leasing.engine_holder import EngineHolder, Lending
from pilotlight_engine.leasing.lease_client import Lease, LeaseAsk
from pilotlight_engine.leasing.lease_errors import LeaseRefused, PoolUnreachable, ServedElsewhere
from pilotlight_engine.leasing.lease_provider import LeaseDeadlines, LeaseProvider
from pilotlight_predictor.tokens_model import TokensModel
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.leases import LeaseRequest
from pilotlight_wire.handlers import Reply, RequestContext
from pilotlight_wire.hop_headers import ELSEWHERE

pytestmark = pytest.mark.real_time  # the calls of a lease run in threads, which virtual time does not wait for

BODY: dict[str, Any] = {"input_ids": [1], "parameters": {"max_tokens": 4, "temperature": 0}}


class LeasedScriptedEngine(ScriptedEngine):
    model_name = "m"
    closed = False

    async def close(self) -> None:
        self.closed = True


class Rig:
    """A tokens model on a lease provider on a scripted pool. `names`: of the models that lent engines serve."""

    def __init__(self, script: list[Entry], idle_s: float, wait_s: float, names: list[str]) -> None:
        self.pool = ScriptedPool(*script)
        self.engines: list[LeasedScriptedEngine] = []
        self.names = names
        wish = LeaseRequest("file:///m", "m")
        deadlines = LeaseDeadlines(first_s=600.0, later_s=5.0)
        provider = LeaseProvider("m", lambda s: LeaseAsk(wish, self.pool, s), deadlines, self.pool, self.connect)
        lending = Lending(idle_s, wait_s, provider.check_pool, lambda: provider.news, provider.watch)
        self.holder = EngineHolder(provider, lending)
        self.model = TokensModel("m", self.holder, RequestLimits(), QueueLimits(max_queue=2))

    async def connect(self, granted: Lease) -> LeasedScriptedEngine:
        engine = LeasedScriptedEngine()
        if self.names:
            engine.model_name = self.names.pop(0)
        self.engines.append(engine)
        return engine

    async def ask(self, headers: dict[str, str] | None = None, **parameters: Any) -> tuple[list[int], RequestContext]:
        body = {**BODY, "parameters": {**BODY["parameters"], **parameters}}
        context = RequestContext("r", headers or {}, body=msgspec.json.encode(body), model_name="m")
        reply = await self.model.generate(context)
        assert isinstance(reply, Reply)
        return msgspec.json.decode(reply.body)["output_ids"], context


@contextlib.asynccontextmanager
async def leasing(
    *script: Entry, idle_s: float = 60.0, wait_s: float = 5.0, names: list[str] | None = None
) -> AsyncIterator[Rig]:
    rig = Rig(list(script), idle_s, wait_s, names or [])
    task = asyncio.create_task(rig.holder.run())
    try:
        yield rig
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_ready_with_the_first_grant_and_still_when_it_is_given_back() -> None:
    async with leasing(lease(), lease(lease_id="L2"), idle_s=0.01) as rig:
        assert not rig.model.ready()
        await until_async(rig.model.ready)
        await until_async(lambda: rig.pool.given_back == ["L1"])
        assert rig.model.ready()
        assert rig.engines[0].closed
        tokens, context = await rig.ask()
        assert tokens == [2, 3, 4, 5]
        assert [round(body["deadline_s"]) for body in rig.pool.bodies] == [600, 5]
        assert context.server_timing["swap"] == 50.0
        assert "lease" in context.server_timing
        assert context.response_headers["x-pilotlight-lease"] == "path=swap; swap=0.0500"
        await until_async(lambda: rig.pool.given_back == ["L1", "L2"])


async def test_the_first_request_hears_how_the_lease_was_got_the_second_does_not() -> None:
    async with leasing(lease()) as rig:
        await until_async(rig.model.ready)
        _, first = await rig.ask()
        _, second = await rig.ask()
        assert "path=swap" in first.response_headers["x-pilotlight-lease"]
        assert "lease" not in first.server_timing
        assert "x-pilotlight-lease" not in second.response_headers


async def test_an_engine_with_work_is_not_given_back() -> None:
    async with leasing(lease(), lease(lease_id="L2"), idle_s=0.0) as rig:
        await until_async(lambda: rig.pool.given_back == ["L1"])
        with rig.holder.work():
            await until_async(lambda: rig.holder.held)
            for _ in range(100):
                await asyncio.sleep(0)
            assert rig.holder.held
        await until_async(lambda: rig.pool.given_back == ["L1", "L2"])


async def test_waiting_requests_are_bounded_and_are_served_when_the_lease_comes() -> None:
    async with leasing(lease(), lease("queued"), idle_s=0.0) as rig:
        await until_async(lambda: rig.pool.given_back == ["L1"])
        waiting = [asyncio.create_task(rig.ask()) for _ in range(2)]
        await until_async(lambda: rig.pool.calls[-1][0] == "GET")
        with pytest.raises(Unavailable, match="sequences wait for the engine"):
            await rig.ask()
        rig.pool.answer(lease(lease_id="L2"))
        assert [(await task)[0] for task in waiting] == [[2, 3, 4, 5]] * 2


async def test_while_another_pod_has_an_engine_requests_go_there_and_this_pod_is_not_ready() -> None:
    async with leasing(lease(), lease("queued", elsewhere=True), idle_s=0.0) as rig:
        await until_async(lambda: rig.pool.given_back == ["L1"])
        stays = asyncio.create_task(rig.ask())
        with pytest.raises(ServedElsewhere, match="another pod"):
            await rig.ask({ELSEWHERE: "1"})
        assert not rig.model.ready()
        with pytest.raises(ServedElsewhere):
            await rig.ask({ELSEWHERE: "1"})
        rig.pool.answer(lease("queued"))
        await until_async(rig.model.ready)
        comes = asyncio.create_task(rig.ask({ELSEWHERE: "1"}))
        rig.pool.answer(lease(lease_id="L2"))
        assert [(await task)[0] for task in (stays, comes)] == [[2, 3, 4, 5]] * 2, "nobody waits here who need not"


async def test_a_stream_that_has_lost_its_engine_waits_for_the_next_one_here() -> None:
    async with leasing(lease(), lease("placing", elsewhere=True)) as rig:
        await until_async(rig.model.ready)
        rig.engines[0].step_s = 0.2  # it is lost before it comes to the tokens with a meaning
        asking = asyncio.create_task(rig.ask({ELSEWHERE: "1"}, max_tokens=200))
        await until_async(lambda: rig.engines[0].active == 1)
        rig.engines[0].lose("the engine died")
        await until_async(lambda: rig.pool.calls[-1][0] == "GET" and not rig.model.ready())
        rig.pool.answer(lease(lease_id="L2"))
        assert (await asking)[0] == [token % 1000 for token in range(2, 202)]


async def test_every_request_that_waits_for_the_lease_says_how_long() -> None:
    async with leasing(lease(), lease("queued"), idle_s=0.0) as rig:
        await until_async(lambda: rig.pool.given_back == ["L1"])
        waiting = [asyncio.create_task(rig.ask()) for _ in range(2)]
        await until_async(lambda: rig.pool.calls[-1][0] == "GET")
        rig.pool.answer(lease(lease_id="L2"))
        assert ["lease" in (await task)[1].server_timing for task in waiting] == [True, True]


async def test_a_request_waits_no_longer_than_its_deadline() -> None:
    async with leasing(lease(), idle_s=0.0, wait_s=0.05) as rig:
        await until_async(lambda: rig.pool.given_back == ["L1"])
        with pytest.raises(Unavailable, match="the engine is starting"):
            await rig.ask()


async def test_a_refusal_is_told_to_those_who_wait_with_its_reasons() -> None:
    async with leasing(lease(), error(503, "two leases before yours", 9), lease(), idle_s=0.0) as rig:
        await until_async(lambda: rig.pool.given_back == ["L1"])
        with pytest.raises(LeaseRefused, match="two leases before yours") as caught:
            await rig.ask()
        assert caught.value.retry_after_s == 9
        assert rig.model.ready()
        assert (await rig.ask())[0] == [2, 3, 4, 5]


async def test_a_lost_lease_is_replaced_and_its_request_goes_on() -> None:
    async with leasing(lease(), lease(lease_id="L2")) as rig:
        await until_async(rig.model.ready)
        rig.engines[0].step_s = 0.2  # it is lost before it comes to the tokens with a meaning
        asking = asyncio.create_task(rig.ask(max_tokens=200))
        await until_async(lambda: rig.engines[0].active == 1)
        rig.engines[0].lose("preempted for b")
        tokens, _ = await asking
        assert tokens == [token % 1000 for token in range(2, 202)]
        assert rig.pool.given_back == ["L1"]


async def test_an_idle_lease_that_is_taken_back_is_not_asked_for_again() -> None:
    async with leasing(lease(), lease(lease_id="L2")) as rig:
        await until_async(rig.model.ready)
        rig.engines[0].lose("preempted for b")
        await until_async(lambda: rig.pool.given_back == ["L1"])
        assert rig.model.ready()
        assert len(rig.pool.bodies) == 1
        assert (await rig.ask())[0] == [2, 3, 4, 5]


async def test_a_heartbeat_that_hears_410_ends_the_engine() -> None:
    async with leasing(lease(expires_s=0.003)) as rig:
        await until_async(rig.model.ready)
        rig.pool.heartbeats += [PoolUnreachable("away for a moment"), error(410, "expired")]
        assert await asyncio.wait_for(rig.engines[0].lost, 5) == "the lease has ended: expired"


async def test_tokens_of_another_model_are_never_served() -> None:
    async with leasing(lease(), lease(lease_id="L2"), names=["other", "m"]) as rig:
        await until_async(rig.model.ready)
        assert rig.engines[0].closed
        assert not rig.engines[0].seen
        assert rig.pool.given_back == ["L1"]
        assert rig.holder.held


async def test_not_ready_while_the_pool_is_away_and_no_lease_is_asked_for_only_to_find_out() -> None:
    async with leasing(lease(), idle_s=0.0, wait_s=0.05) as rig:
        await until_async(lambda: rig.pool.given_back == ["L1"])
        rig.pool.healthy = False
        with pytest.raises(Unavailable):
            await rig.ask()
        await until_async(lambda: ("GET", "/healthz") in rig.pool.calls)
        assert not rig.model.ready()
        asked = len(rig.pool.bodies)
        rig.pool.healthy = True
        await until_async(rig.model.ready)
        assert len(rig.pool.bodies) == asked


async def test_a_wish_that_can_never_be_met_ends_the_holder() -> None:
    rig = Rig([error(404, "no such model")], 60.0, 5.0, [])
    with pytest.raises(EngineMisconfigured, match="no such model"):
        await asyncio.wait_for(rig.holder.run(), 5)


async def test_after_a_refusal_for_good_every_request_hears_the_reason_at_once() -> None:
    refusal = error(400, "cpu:0 cannot run fp8")
    rig = Rig([lease(), refusal], 0.01, 60.0, [])
    task = asyncio.create_task(rig.holder.run())
    await until_async(lambda: rig.pool.given_back == ["L1"])
    for _ in range(3):
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match="cannot run fp8") as refused:
                await rig.ask()
        assert refused.value.retry_after_s == 60
    assert not rig.model.ready()
    assert "cannot run fp8" in rig.model.why_not_ready().message
    with pytest.raises(EngineMisconfigured):
        await task


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_is_away_for_a_moment_costs_a_503_and_not_the_predictor(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with leasing(lease(), error(status, "no such key"), lease(lease_id="L2"), idle_s=0.01) as rig:
        await until_async(lambda: rig.pool.given_back == ["L1"])
        with pytest.raises(LeaseRefused, match="no such key"):
            await rig.ask()
        assert rig.model.ready()
        assert "are its lease keys being changed" in caplog.text
        assert (await rig.ask())[0] == [2, 3, 4, 5]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_was_never_good_ends_the_holder(status: int) -> None:
    rig = Rig([error(status, "no such key")], 60.0, 5.0, [])
    with pytest.raises(EngineMisconfigured, match="no such key"):
        await asyncio.wait_for(rig.holder.run(), 5)


async def test_giving_up_gives_the_lease_back() -> None:
    async with leasing(lease()) as rig:
        await until_async(rig.model.ready)
    assert rig.pool.given_back == ["L1"]
    assert rig.engines[0].closed


async def test_giving_up_while_the_lease_is_queued_gives_it_back() -> None:
    async with leasing(lease("queued")) as rig:
        await until_async(lambda: len(rig.pool.calls) == 2)
    await until_async(lambda: rig.pool.given_back == ["L1"])
