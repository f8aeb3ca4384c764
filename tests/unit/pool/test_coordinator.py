"""The coordinator over an agent without processes, in virtual time. After every step the ledger keeps its promises."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from coordinator_world import World, Worlds
from memory_agent import MemoryAgent

from pilotlight_pool.agent_port import (
    EngineGone,
    EngineLost,
    EngineRefused,
    ExitReport,
    SleeperReport,
    SlotReport,
    SwapFailed,
    SwapRefused,
    WorkBegan,
    WorkEnded,
)
from pilotlight_pool.coordinator.coordinator import CoordinatorSettings
from pilotlight_pool.coordinator.driver_settings import DriverSettings
from pilotlight_pool.coordinator.errors import LeaseGone
from pilotlight_pool.coordinator.pool import PoolPolicy
from pilotlight_pool.coordinator.warm_orders import MOST_OF_A_TENANT
from pilotlight_pool.engine_orders import EngineOrder, Grant, ModelFacts, ModelOrder
from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec
from pilotlight_pool.policy.leases.access import TRUSTED, Caller
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_protocol.back_off import BackOff
from pilotlight_protocol.errors import (
    Forbidden,
    InvalidInput,
    ModelNotFound,
    PayloadTooLarge,
    PilotlightError,
    TooManyRequests,
    Unavailable,
)
from pilotlight_protocol.leases import LeaseAnswer, PrewarmRequest

pytestmark = pytest.mark.looptime

A, B, C = "model://f/a", "model://f/b", "model://g/c"


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    running = Worlds()

    async def _start(*slots: str, agent: MemoryAgent | None = None, **settings: Any) -> World:
        settings.setdefault("driver", DriverSettings(back_off=BackOff(0.0, 30.0, free=1)))
        settings.setdefault("policy", PoolPolicy(back_off=BackOff(0.0, 30.0, free=1)))
        return await running.start(CoordinatorSettings(**settings), agent or MemoryAgent(*(slots or ("s0",))))

    yield _start
    await running.end()


async def test_paths_from_empty_to_loaded(start: Any) -> None:
    world = await start()
    for model, path, commands in (
        (A, "fork", ["boot", "grant"]),
        (A, "loaded", ["grant"]),
        (B, "swap", ["swap", "grant"]),
        (C, "fork", ["stop", "boot", "grant"]),
        ("model://g/d?boot", "fork", ["stop", "boot", "grant"]),
    ):
        world.agent.calls.clear()
        lease = await world.lease(model)
        assert (lease.state, lease.path) == ("active", path), model
        assert world.commands() == commands, model
        await world.release(lease)
        assert world.commands()[-1] == "revoke"
        assert world.states() == ["idle"]


async def test_an_engine_with_other_arguments_is_another_engine(start: Any) -> None:
    world = await start(agent=MemoryAgent("s0", sleepers=2))
    await world.release(await world.lease(A, tenant="b", engine_args={"max_model_len": "64"}))
    for args, path, commands in (
        ({"max_model_len": "4096"}, "fork", ["sleep", "boot", "grant"]),
        ({"max_model_len": "4096"}, "loaded", ["grant"]),
        ({"max_model_len": "64"}, "wake", ["sleep", "wake", "grant"]),
        ({}, "fork", ["sleep", "boot", "grant"]),
    ):
        world.agent.calls.clear()
        lease = await world.lease(A, tenant="a", engine_args=args)
        assert (lease.state, lease.path) == ("active", path), args
        assert [name for name in world.commands() if name != "discard"] == commands, args
        await world.release(lease)


async def test_a_prewarm_with_other_arguments_loads_its_own_engine(start: Any) -> None:
    world = await start("s0", "s1")
    await world.release(await world.lease(A))
    await world.coordinator.prewarm(
        PrewarmRequest(A, "a", engine_args={"max_model_len": "64"}, hold_s=100.0, tenant="a"), TRUSTED
    )
    await world.settle()
    assert world.commands().count("boot") == 2
    assert [(line.loaded_in, line.held_until_s) for line in world.coordinator.models()] == [
        (("s0",), None),
        (("s1",), 100.0),
    ]
    assert (await world.lease(A, engine_args={"max_model_len": "64"})).path == "loaded"


async def test_a_schedule_follows_the_arguments_of_the_latest_revision(start: Any) -> None:
    world = await start()
    schedule = "cron 0 9 * * * for 30m"
    for args in ({"max_model_len": "64"}, {"max_model_len": "4096"}):
        await world.coordinator.prewarm(
            PrewarmRequest(A, "a", engine_args=args, schedule=schedule, tenant="a"), TRUSTED
        )
    world.now_s = 9 * 3600.0 + 1
    world.coordinator.keep_warm()
    await world.settle()
    assert world.commands() == ["boot"]
    assert (await world.lease(A, engine_args={"max_model_len": "4096"})).path == "loaded"


async def test_a_lease_that_ends_while_its_engine_boots_leaves_it_idle_for_the_next(start: Any) -> None:
    world = await start()
    world.agent.gate = asyncio.Event()
    first = await world.ask(A)
    assert first.state == "placing"
    await world.release(first)
    second = await world.ask(B)
    world.agent.gate.set()
    await world.settle()
    assert (await world.coordinator.lease_service.poll(second.lease_id, 0.0, TRUSTED)).state == "active"
    assert world.commands() == ["boot", "swap", "grant"]


async def test_a_lease_that_ends_while_it_is_granted_is_revoked(start: Any) -> None:
    world = await start()
    await world.release(await world.lease(A))
    world.agent.gate = asyncio.Event()
    lease = await world.ask(A)
    await world.release(lease)
    world.agent.gate.set()
    await world.settle()
    assert world.agent.granted == {}
    assert world.states() == ["idle"]


@pytest.mark.parametrize("command", ["boot", "swap", "grant"])
async def test_a_failure_on_the_way_is_tried_again_and_not_for_ever(start: Any, command: str) -> None:
    world = await start()
    await world.release(await world.lease(A))
    if command == "boot":
        world.agent.die("s0")
        await world.settle()
    failures = iter([SwapFailed("odd") if command == "swap" else EngineGone("crash")])
    world.agent.fails = lambda name, slot_id, model: next(failures, None) if name == command else None
    lease = await world.lease(B)
    assert lease.state == "active"
    await world.release(lease)

    world.agent.fails = lambda name, slot_id, model: EngineGone("crash") if name in {"boot", "swap"} else None
    with pytest.raises(Unavailable, match="the engine was lost: crash"):
        await world.lease(C)
    world.agent.fails = lambda name, slot_id, model: None
    assert (await world.lease(A)).state == "active"


async def test_a_refused_configuration_is_the_askers_mistake(start: Any) -> None:
    world = await start()
    world.agent.fails = lambda name, slot_id, model: EngineRefused("no such argument") if name == "boot" else None
    with pytest.raises(InvalidInput, match="no such argument"):
        await world.lease(A)
    assert world.commands().count("boot") == 1
    world.agent.fails = lambda name, slot_id, model: None
    assert (await world.lease(B)).state == "active", "the slot goes on with other models at once"
    with pytest.raises(InvalidInput, match="no such argument"):
        await world.ask(A)
    assert world.commands().count("boot") == 2, "nobody tries it again"
    assert world.agent.loaded == {"s0": B}


async def test_leases_that_wait_for_a_model_that_was_refused_are_told_so_too(start: Any) -> None:
    world = await start()
    world.agent.gate = asyncio.Event()
    world.agent.fails = lambda name, slot_id, model: EngineRefused("it lies") if name == "boot" else None
    waiting = [await world.ask(A, tenant=f"t{number}") for number in range(5)]
    await world.settle()
    world.agent.gate.set()
    await world.settle()
    for lease in waiting:
        with pytest.raises(InvalidInput, match="it lies"):
            await world.coordinator.lease_service.poll(lease.lease_id, 0.0, TRUSTED)
    assert world.commands().count("boot") == 1


async def test_a_refusal_is_forgotten_when_an_agent_comes(start: Any) -> None:
    world = await start()
    world.agent.fails = lambda name, slot_id, model: EngineRefused("no compiler") if name == "boot" else None
    with pytest.raises(InvalidInput):
        await world.lease(A)
    world.agent.fails = lambda name, slot_id, model: None
    world.coordinator.registry.take_over(world.agent, await world.agent.report())
    assert (await world.lease(A)).state == "active"


async def test_a_refused_swap_keeps_the_engine_until_another_boots_in_its_place(start: Any) -> None:
    world = await start()
    await world.release(await world.lease(A))
    world.agent.fails = lambda name, slot_id, model: SwapRefused("not proven") if name == "swap" else None
    lease = await world.lease(B)
    assert (lease.state, lease.path) == ("active", "fork")
    assert world.commands()[-4:] == ["swap", "stop", "boot", "grant"]
    assert world.coordinator.pool.models.wait_s(B) == 0, "nothing has failed"


@pytest.mark.parametrize(("command", "model"), [("swap", B), ("peek", C)])
async def test_a_model_that_is_not_what_was_asked_for_costs_no_engine(start: Any, command: str, model: str) -> None:
    """Its folder was changed while its lease waited; `peek` finds out where an engine would have to make way."""
    world = await start()
    await world.release(await world.lease(A))
    before = len(world.commands())
    world.agent.fails = lambda name, slot_id, key: InvalidInput("config.json lies") if name == command else None
    with pytest.raises((LeaseGone, Unavailable), match=r"config\.json lies"):
        await world.lease(model)
    assert (world.agent.loaded, world.states()) == ({"s0": A}, ["idle"])
    assert not {"stop", "boot"} & set(world.commands()[before:])
    world.agent.fails = lambda name, slot_id, key: None
    assert (await world.lease(A)).path == "loaded"


async def test_a_lost_engine_ends_its_lease_with_the_reason(start: Any) -> None:
    world = await start()
    lease = await world.lease(A)
    world.agent.die("s0", "out of memory")
    with pytest.raises(LeaseGone, match="out of memory"):
        world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)
    await world.settle()
    assert world.states() == ["empty"]


async def test_news_about_an_earlier_engine_are_dropped(start: Any) -> None:
    world = await start()
    lease = await world.lease(A)
    world.agent.die("s0")
    await world.settle()
    lease = await world.lease(A)
    world.agent.tell(EngineLost("s0", 1, ExitReport("late news")))
    await world.settle()
    assert world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED).state == "active"


async def test_an_engine_that_does_not_end_its_lease_is_killed(start: Any) -> None:
    world = await start()
    lease = await world.lease(A)
    world.agent.fails = lambda name, slot_id, model: EngineGone("no answer to Revoke") if name == "revoke" else None
    await world.release(lease)
    assert world.commands()[-2:] == ["revoke", "stop"]
    assert world.states() == ["empty"]


async def test_work_and_idleness_come_from_the_engine_and_idle_leases_give_way(start: Any) -> None:
    world = await start()
    lease = await world.lease(A, tenant="a", priority="interactive")
    world.agent.tell(WorkBegan("s0", lease.lease_id))
    other = await world.ask(B, tenant="b")
    assert other.state == "queued"
    assert any("held by a lease" in reason for reason in other.reasons)
    world.agent.tell(WorkEnded("s0", lease.lease_id))
    await world.settle()
    assert (await world.coordinator.lease_service.poll(other.lease_id, 0.0, TRUSTED)).state == "active"
    with pytest.raises(LeaseGone, match="the lease was preempted: it is idle"):
        world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)


async def test_batch_work_gives_way_at_once_and_takes_nothing(start: Any) -> None:
    world = await start()
    lease = await world.lease(A, tenant="a", priority="batch")
    other = await world.lease(B, tenant="b")
    assert other.state == "active"
    with pytest.raises(LeaseGone, match="the lease was preempted: it is batch work"):
        world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)
    assert (await world.ask(A, tenant="b", priority="batch")).state == "queued"


async def test_a_lease_on_its_way_gives_way_and_keeps_its_place(start: Any) -> None:
    world = await start()
    await world.release(await world.lease(A))
    world.agent.gate = asyncio.Event()
    batch = await world.ask(B, tenant="a", priority="batch")
    assert batch.state == "placing"
    urgent = await world.ask(A, tenant="b")
    lease_service = world.coordinator.lease_service
    assert (urgent.state, lease_service.heartbeat(batch.lease_id, TRUSTED).state) == ("placing", "queued")
    world.agent.gate.set()
    await world.settle()
    assert lease_service.heartbeat(urgent.lease_id, TRUSTED).state == "active"
    # What had begun for the other one cannot be undone: its weights came first.
    assert world.commands()[-3:] == ["swap", "swap", "grant"]
    await world.release(urgent)
    assert lease_service.heartbeat(batch.lease_id, TRUSTED).state == "active"


async def test_an_engine_on_its_way_is_not_taken_for_another_architecture(start: Any) -> None:
    world = await start()
    world.agent.gate = asyncio.Event()
    batch = await world.ask(A, tenant="a", priority="batch")
    other = await world.ask(C, tenant="b")
    assert (world.coordinator.lease_service.heartbeat(batch.lease_id, TRUSTED).state, other.state) == (
        "placing",
        "queued",
    )


async def test_expired_leases_make_room(start: Any) -> None:
    world = await start()
    lease = await world.lease(A)
    waiting = await world.ask(B)
    world.now_s += 14.0
    world.coordinator.pool.renew(waiting.lease_id)
    world.now_s += 2.0
    assert world.coordinator.pool.expire() == (lease.lease_id,)
    await world.settle()
    assert (await world.coordinator.lease_service.poll(waiting.lease_id, 0.0, TRUSTED)).state == "active"
    with pytest.raises(LeaseGone):
        world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)
    world.now_s += 100.0
    world.coordinator.pool.renew(waiting.lease_id)
    world.coordinator.pool.sweep()
    with pytest.raises(ModelNotFound):
        world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)


@pytest.mark.parametrize(
    ("model", "more", "error"),
    [
        (A, {"deadline_s": 1.0}, Unavailable),  # a fork takes 4 s
        ("model://f/a?gib=8", {}, PayloadTooLarge),
        ("nowhere", {}, ModelNotFound),
    ],
)
async def test_what_cannot_be_is_refused_at_once(
    start: Any, model: str, more: dict[str, Any], error: type[PilotlightError]
) -> None:
    world = await start()
    with pytest.raises(error):
        await world.lease(model, **more)
    assert world.commands() == []


async def test_a_deadline_behind_those_who_wait_is_refused_at_once_with_when_to_come_back(start: Any) -> None:
    world = await start()
    for _ in range(20):
        lease = await world.lease(A, tenant="a", priority="interactive")
        world.now_s += 8.0
        world.coordinator.lease_service.release(lease.lease_id, TRUSTED)
        await world.settle()
    await world.lease(A, tenant="a", priority="interactive")
    for place in (1, 2, 3):
        world.now_s += 0.01
        waiting = await world.ask(A, tenant="b", priority="batch")
        assert waiting.eta_s == pytest.approx(8.0 * place, abs=place)
    world.now_s += 0.01
    with pytest.raises(Unavailable, match="3 of b like it wait before it") as refused:
        await world.ask(A, tenant="b", priority="batch", deadline_s=12.0)
    assert refused.value.retry_after_s == pytest.approx(20.0, abs=4.0)


async def test_shutting_down_tells_those_who_wait(start: Any) -> None:
    world = await start()
    await world.lease(A)
    waiting = await world.ask(B)
    world.coordinator.lease_service.close()
    with pytest.raises(Unavailable, match="shutting down"):
        await world.coordinator.lease_service.poll(waiting.lease_id, 0.0, TRUSTED)
    with pytest.raises(Unavailable, match="shutting down"):
        await world.lease(A)


async def test_prewarm_loads_and_holds_and_takes_no_lease_its_slot(start: Any) -> None:
    world = await start("s0", "s1")
    lease = await world.lease(A, tenant="a")
    await world.coordinator.prewarm(PrewarmRequest(B, "b", hold_s=100.0, tenant="a"), TRUSTED)
    await world.settle()
    assert world.agent.loaded == {"s0": A, "s1": B}
    await world.coordinator.prewarm(PrewarmRequest(C, "c", hold_s=100.0, tenant="a"), TRUSTED)
    await world.settle()
    assert world.agent.loaded == {"s0": A, "s1": B}, "what is leased or held stays"
    await world.release(lease)
    await world.coordinator.prewarm(PrewarmRequest(C, "c", hold_s=100.0, tenant="a"), TRUSTED)
    await world.settle()
    assert world.agent.loaded == {"s0": C, "s1": B}
    assert (await world.lease(C)).path == "loaded"


async def test_a_tenants_hold_neither_ends_nor_outlasts_anothers(start: Any) -> None:
    """Holds and schedules are one tenant's: B once ended A's, and read it, by asking for the same model."""
    world = await start("s0", "s1")
    a, b = (Caller(tenant, operator=False, sources=(A, B)) for tenant in "ab")
    prewarm = world.coordinator.prewarm
    for model in (A, B):
        await prewarm(PrewarmRequest(model, "m", hold_s=100.0, tenant="a"), a)
    schedule = "cron 0 9 * * * for 30m"
    await prewarm(PrewarmRequest(A, "m", schedule=schedule, isolation="dedicated"), a)
    line = await prewarm(PrewarmRequest(A, "m", hold_s=0.0), b)
    assert (line.held_until_s, line.schedule, line.loaded_in) == (None, "", ())
    await prewarm(PrewarmRequest(A, "m", schedule=schedule, isolation="dedicated"), b)
    await prewarm(PrewarmRequest(A, "m", schedule="", isolation="dedicated"), b)
    known = next(line for line in world.coordinator.models() if line.model == A)
    assert (known.held_until_s, known.schedule) == (100.0, schedule)
    with pytest.raises(Forbidden):
        await prewarm(PrewarmRequest(A, "m", tenant="a"), b)
    await world.settle()
    assert sorted(world.agent.loaded.values()) == [A, B], "a is alone, and may hold both slots"
    await prewarm(PrewarmRequest(C, "c", hold_s=50.0, tenant="z"), TRUSTED)
    world.now_s += 20.0
    world.coordinator.keep_warm()
    await world.settle()
    assert sorted(world.agent.loaded.values()) == [A, C], "z has its share; a keeps what it held first"


async def test_a_hold_does_not_fight_the_tenant_that_has_just_used_the_slot(start: Any) -> None:
    world = await start()
    world.take_time(boot_s=4.0)
    await world.coordinator.prewarm(PrewarmRequest(C, "c", hold_s=3600.0, tenant="b"), TRUSTED)
    await world.settle()
    await world.release(await world.lease(A, tenant="a"))
    for _ in range(20):
        world.now_s += 0.2
        world.coordinator.keep_warm()
        await world.settle()
    assert world.agent.loaded == {"s0": A}
    assert world.commands().count("boot") == 2


async def test_a_prewarm_that_its_engine_refuses_is_not_tried_at_every_tick(start: Any) -> None:
    world = await start(policy=PoolPolicy(back_off=BackOff(8.0, 30.0, free=1)))
    world.agent.fails = lambda command, slot_id, model: EngineRefused("no such argument") if command == "boot" else None
    for _ in range(5):
        for schedule in (None, "cron * * * * * for 1h"):
            with contextlib.suppress(InvalidInput):
                await world.coordinator.prewarm(PrewarmRequest(A, "a", schedule=schedule), TRUSTED)
            for _ in range(5):
                world.now_s += 0.2
                world.coordinator.keep_warm()
                await world.settle()
    assert world.commands().count("boot") == 1


async def test_a_tenant_may_order_so_many_prewarms_and_no_more(start: Any) -> None:
    world = await start()
    for number in range(MOST_OF_A_TENANT):
        await world.coordinator.prewarm(PrewarmRequest(f"model://f/{number}", "m", tenant="a"), TRUSTED)
    with pytest.raises(TooManyRequests, match="of a tenant at most"):
        await world.coordinator.prewarm(PrewarmRequest(A, "m", tenant="a"), TRUSTED)
    await world.coordinator.prewarm(PrewarmRequest(A, "m", tenant="b"), TRUSTED)


@pytest.mark.parametrize("isolation", ["shared", "dedicated"])
async def test_no_answer_names_another_tenant_its_lease_or_its_model(start: Any, isolation: str) -> None:
    """Whatever globex asks for under contention, it hears nothing of acme."""
    weights = "model://f/weights-of-theirs"
    world = await start("s0")
    lease_service = world.coordinator.lease_service
    acme, globex = (Caller(tenant, operator=False, sources=(weights, A, C)) for tenant in ("acme", "globex"))

    async def ask(caller: Caller, model: str, **more: Any) -> LeaseAnswer:
        answer: LeaseAnswer = await world.ask(model, caller, isolation=isolation, **more)
        return answer

    theirs = [await ask(acme, weights)]
    world.now_s += 8.0
    lease_service.release(theirs[0].lease_id, acme)
    await world.settle()
    theirs.append(await ask(acme, weights, priority="interactive"))
    waiting = await ask(globex, C)
    told = [str(waiting)]
    assert "its lease should end in" in told[0]
    with pytest.raises(Unavailable) as refused:
        await ask(globex, A, deadline_s=1.0)
    told.append(refused.value.message)
    world.agent.tell(WorkEnded("s0", theirs[1].lease_id))
    await world.settle()
    told.append(str(lease_service.heartbeat(waiting.lease_id, globex)))
    assert "preempts a lease: it is idle" in told[-1]
    lease_service.release(waiting.lease_id, globex)
    await world.settle()
    mine = await ask(globex, C, priority="batch")
    theirs.append(await ask(acme, weights, priority="interactive"))
    with pytest.raises(LeaseGone, match="preempted: it is batch work") as gone:
        lease_service.heartbeat(mine.lease_id, globex)
    told += [gone.value.message, *(str(line) for line in world.coordinator.leases() if globex.owns(line.tenant))]
    told += world.agent.told[mine.lease_id]
    for word in ("acme", "of-theirs", *(lease.lease_id for lease in theirs)):
        assert not [text for text in told if word in text], word


ENDED = ExitReport("the process ended", ("prompt of another tenant", "and more of it"))


async def test_what_a_lost_process_wrote_last_is_for_the_log_alone(
    start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world = await start()
    lease = await world.lease(A)
    world.agent.tell(EngineLost("s0", 1, ENDED))
    with pytest.raises(LeaseGone) as gone:
        world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)
    assert gone.value.message == "the engine was lost: the process ended"
    assert "the process ended\n  | prompt of another tenant\n  | and more of it" in caplog.text


async def test_what_an_engine_wrote_before_its_boot_failed_is_for_the_log_alone(
    start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world = await start()
    world.agent.fails = lambda command, slot_id, model: EngineGone(ENDED) if command == "boot" else None
    lease = await world.ask(A)
    await world.settle()
    with pytest.raises(LeaseGone) as gone:
        world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)
    assert gone.value.message == "the engine was lost: the process ended"
    assert "prompt of another tenant" in caplog.text


async def test_a_schedule_loads_when_its_time_comes(start: Any) -> None:
    world = await start()
    with pytest.raises(InvalidInput, match="not understood"):
        await world.coordinator.prewarm(PrewarmRequest(A, "a", schedule="at nine", tenant="a"), TRUSTED)
    schedule = "cron 0 9 * * * for 30m"
    line = await world.coordinator.prewarm(PrewarmRequest(A, "a", schedule=schedule, tenant="a"), TRUSTED)
    assert line.schedule == schedule
    await world.settle()
    assert world.commands() == []
    world.now_s = 9 * 3600.0 + 1
    world.coordinator.keep_warm()
    await world.settle()
    assert world.agent.loaded == {"s0": A}


async def test_a_schedule_comes_with_a_lease_and_knows_its_tenant(start: Any) -> None:
    world = await start(isolation="dedicated")
    schedule = "cron 0 9 * * * for 30m"
    with pytest.raises(InvalidInput, match="not understood"):
        await world.ask(A, tenant="a", prewarm="at nine")
    await world.release(await world.lease(A, tenant="a", prewarm=schedule))
    await world.release(await world.lease(A, tenant="a"))
    assert [line.schedule for line in world.coordinator.models()] == [schedule]
    world.agent.die("s0")
    await world.settle()
    world.now_s = 9 * 3600.0 + 1
    world.coordinator.keep_warm()
    await world.settle()
    assert world.agent.loaded == {"s0": A}
    lease = await world.lease(A, tenant="a")
    assert lease.path == "loaded"
    await world.release(lease)
    assert (await world.lease(A, tenant="b")).path == "fork", "only a may have a's process; its slot is anybody's"
    assert world.commands()[-3:] == ["stop", "boot", "grant"]
    await world.lease(B, tenant="a", prewarm="")


async def test_an_engine_of_its_tenant_is_swapped_for_a_prewarm_under_reset(start: Any) -> None:
    world = await start(isolation="reset")
    world.take_time(boot_s=4.0)
    await world.release(await world.lease(A, tenant="a"))
    await world.coordinator.prewarm(PrewarmRequest(B, "b", hold_s=100.0, tenant="a"), TRUSTED)
    await world.settle()
    assert world.commands()[-1] == "swap"
    await world.coordinator.prewarm(PrewarmRequest(B, "b", hold_s=0.0, tenant="a"), TRUSTED)
    await world.coordinator.prewarm(PrewarmRequest(A, "a", hold_s=100.0, tenant="z"), TRUSTED)
    await world.settle()
    assert world.commands()[-1] == "swap", "what another tenant has just parked stays"
    world.now_s += 9.0
    world.coordinator.keep_warm()
    await world.settle()
    assert world.commands()[-2:] == ["stop", "boot"], "another tenant's gets a fresh process"


async def test_an_idle_engine_is_stopped_when_keeping_it_does_not_pay(start: Any) -> None:
    world = await start(keep_alive=KeepAliveSpec(price_slot_s=60.0, uncontested_s=0.0))
    await world.release(await world.lease(A))
    world.now_s += 50.0
    world.coordinator.keep_warm()
    await world.settle()
    assert world.states() == ["idle"]
    world.now_s += 20.0
    world.coordinator.keep_warm()
    await world.settle()
    assert world.states() == ["empty"]


async def test_an_endpoint_called_every_minute_finds_its_engine_in_a_slot_that_nobody_else_wants(start: Any) -> None:
    """Eight gaps are enough to learn from, and the ninth is a little longer than what was learned."""
    world = await start(keep_alive=KeepAliveSpec(price_slot_s=300.0))
    await world.release(await world.lease(A))
    for gap_s in (*[60.0] * 9, 64.5, 120.0):
        for _ in range(10):
            world.now_s += gap_s / 10
            world.coordinator.keep_warm()
            await world.settle()
        lease = await world.lease(A)
        assert lease.path == "loaded"
        await world.release(lease)
    assert "stop" not in world.commands()


async def test_where_another_architecture_wants_the_slot_its_engine_goes_when_it_is_overdue(start: Any) -> None:
    world = await start("s0", "s1", keep_alive=KeepAliveSpec(price_slot_s=60.0, uncontested_s=1000.0))

    async def overdue() -> list[str]:
        world.now_s += 61.0
        world.coordinator.keep_warm()
        await world.settle()
        return sorted(world.states())

    first = await world.lease(A)
    await world.release(first)
    assert await overdue() == ["empty", "idle"], "there is an empty slot for whoever comes"
    other, another = await world.lease("model://g/x"), await world.lease("model://h/y")
    await world.release(another)
    assert await overdue() == ["idle", "leased"], "h's was used last, and nobody but the leased one wants a slot"
    await world.release(other)
    world.now_s += 1000.0
    world.coordinator.keep_warm()
    await world.settle()
    assert world.states() == ["empty", "empty"], "idle power has its bound"


async def test_predictions_are_learned_and_their_errors_shown(start: Any) -> None:
    world = await start()
    for model in (A, B, A):
        await world.release(await world.lease(model))
    text = world.coordinator.metrics.text().decode()
    assert 'pilotlight_prediction_error_seconds_count{path="swap"} 2.0' in text
    assert 'pilotlight_prediction_bias_seconds{path="fork"} -4.0' in text
    assert 'pilotlight_lease_prediction_error_seconds_count{path="swap",queued="no"} 2.0' in text
    assert 'pilotlight_lease_prediction_bias_seconds{queued="yes"}' not in text
    assert 'pilotlight_slots{state="idle"} 1.0' in text
    assert 'pilotlight_leases{path="swap",state="released"} 2.0' in text
    first = await world.lease(A, tenant="a")
    second = await world.ask(A, tenant="a", priority="batch")
    world.now_s += 5.0
    await world.release(first)
    assert world.coordinator.lease_service.heartbeat(second.lease_id, TRUSTED).state == "active"
    text = world.coordinator.metrics.text().decode()
    assert 'pilotlight_lease_prediction_error_seconds_count{path="loaded",queued="yes"} 1.0' in text
    assert 'pilotlight_lease_prediction_bias_seconds{queued="yes"}' in text


def report(slot_id: str, model: str, lease_id: str, held_s: float, *, idle: bool = False) -> SlotReport:
    facts = ModelFacts(model, "f", "awq", 1000, 2**30, "ram", True)
    order = EngineOrder(ModelOrder(model), facts, "m")
    grant = Grant(lease_id, "hash", "a", "m", "normal", "shared", held_s)
    return SlotReport(slot_id, SlotState.LEASED, 5, order, "a", "shared", (grant,), idle, f"unix:///{slot_id}")


async def test_a_new_coordinator_learns_from_the_agent_what_is_granted(start: Any) -> None:
    agent = MemoryAgent("s0", "s1", "s2")
    agent.reports = {"s0": report("s0", A, "one", 5.0), "s1": report("s1", B, "two", 9.0, idle=True)}
    agent.loaded, agent.granted = {"s0": A, "s1": B}, {"s0": ("one",), "s1": ("two",)}
    agent.incarnations |= {"s0": 5, "s1": 5}
    world = await start(agent=agent)
    lease_service = world.coordinator.lease_service
    assert [lease_service.heartbeat(lease_id, TRUSTED).state for lease_id in ("one", "two")] == ["active", "idle"]
    lease_service.release("one", TRUSTED)
    await world.settle()
    assert agent.granted == {"s1": ("two",)}
    assert (await world.lease(A, tenant="b")).path == "loaded"
    agent.die("s1")
    with pytest.raises(LeaseGone):
        lease_service.heartbeat("two", TRUSTED)


async def two_on_one(start: Any) -> tuple[World, LeaseAnswer, LeaseAnswer]:
    world = await start()
    first, second = await world.lease(A), await world.lease(A)
    assert (second.state, second.path, second.endpoint) == ("active", "share", first.endpoint)
    assert world.agent.granted == {"s0": (first.lease_id, second.lease_id)}
    return world, first, second


def charged(world: World) -> list[str]:
    return list(world.coordinator.pool.fair.running)


async def test_two_of_one_endpoint_share_an_engine_and_the_holder_alone_is_charged(start: Any) -> None:
    world, first, second = await two_on_one(start)
    assert charged(world) == [first.lease_id]
    await world.release(first)
    assert charged(world) == [second.lease_id]
    assert (world.states(), world.agent.granted) == (["leased"], {"s0": (second.lease_id,)})
    await world.release(second)
    assert (world.states(), world.agent.granted, charged(world)) == (["idle"], {}, [])


async def test_a_slot_of_its_own_is_better_than_a_shared_one(start: Any) -> None:
    world = await start("s0", "s1")
    await world.lease(A)
    assert (await world.lease(A)).path == "fork"
    assert (await world.lease(A)).path == "share"


async def test_who_gets_an_engine_of_its_own_hears_meanwhile_that_another_of_its_endpoint_has_one(start: Any) -> None:
    world = await start("s0", "s1")
    first = await world.lease(A)
    world.agent.gate = asyncio.Event()
    second, other = await world.ask(A), await world.ask(A, tenant="b")
    assert (second.state, second.elsewhere) == ("placing", True)
    assert not other.elsewhere, "another tenant's"
    world.agent.die("s0")
    assert not (await world.coordinator.lease_service.poll(second.lease_id, 0.0, TRUSTED)).elsewhere
    world.agent.gate.set()
    await world.settle()
    assert not world.coordinator.lease_service.heartbeat(second.lease_id, TRUSTED).elsewhere
    assert not first.elsewhere


async def test_whoever_asks_while_its_endpoints_engine_boots_shares_it(start: Any) -> None:
    world = await start()
    world.agent.gate = asyncio.Event()
    first, second = await world.ask(A), await world.ask(A)
    await world.release(first)
    third = await world.ask(A)
    world.agent.gate.set()
    await world.settle()
    assert world.agent.granted == {"s0": (second.lease_id, third.lease_id)}
    assert charged(world) == [second.lease_id]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"tenant": "a"}, {"tenant": "b"}),
        ({"name": "m"}, {"name": "n"}),
        ({}, {"engine_args": {"max_model_len": "64"}}),
        ({}, {"isolation": "reset"}),
        ({}, {"priority": "interactive"}),
    ],
    ids=["tenant", "endpoint", "arguments", "isolation", "priority"],
)
async def test_what_is_not_one_endpoint_shares_nothing(start: Any, first: Any, second: Any) -> None:
    world = await start()
    lease, other = await world.lease(A, **first), await world.ask(A, **second)
    world.agent.tell(WorkBegan("s0", lease.lease_id))
    assert (other.state, other.elsewhere) == ("queued", False)
    assert world.agent.granted == {"s0": (lease.lease_id,)}
    await world.release(lease)
    assert world.agent.granted == {"s0": (other.lease_id,)}


async def test_two_endpoints_of_one_tenant_take_turns_at_the_model_that_both_name(start: Any) -> None:
    world = await start()
    lease, other = await world.lease(A, name="m"), await world.ask(A, name="n")
    await world.release(lease)
    polled = await world.coordinator.lease_service.poll(other.lease_id, 0.0, TRUSTED)
    assert (polled.state, polled.path) == ("active", "loaded"), "one engine, as it is, under another name"


async def test_a_holder_that_leaves_while_another_is_let_in_leaves_it_the_slot(start: Any) -> None:
    world = await start()
    first = await world.lease(A)
    world.agent.gate = asyncio.Event()
    second = await world.ask(A)
    await world.release(first)
    world.agent.gate.set()
    await world.settle()
    assert world.coordinator.lease_service.heartbeat(second.lease_id, TRUSTED).state == "active"
    assert (world.agent.granted, charged(world)) == ({"s0": (second.lease_id,)}, [second.lease_id])


async def test_a_sharer_that_falls_silent_leaves_the_others_alone(start: Any) -> None:
    world, first, second = await two_on_one(start)
    world.now_s += 10.0
    world.coordinator.pool.renew(first.lease_id)
    world.now_s += 10.0
    assert world.coordinator.pool.expire() == (second.lease_id,)
    await world.settle()
    assert (world.agent.granted, world.states()) == ({"s0": (first.lease_id,)}, ["leased"])


async def test_an_engine_that_dies_is_lost_for_all_its_leases(start: Any) -> None:
    world, first, second = await two_on_one(start)
    world.agent.die("s0")
    await world.settle()
    for lease in (first, second):
        with pytest.raises(LeaseGone, match="the engine was lost"):
            world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)
    assert (charged(world), world.agent.granted) == ([], {})


async def test_a_preemption_takes_all_who_share_and_only_when_all_are_idle(start: Any) -> None:
    world, first, second = await two_on_one(start)
    for lease in (first, second):
        world.agent.tell(WorkBegan("s0", lease.lease_id))
    world.agent.tell(WorkEnded("s0", first.lease_id))
    other = await world.ask(B, tenant="b", priority="interactive")
    assert other.state == "queued"
    world.agent.tell(WorkEnded("s0", second.lease_id))
    await world.settle()
    assert world.agent.granted == {"s0": (other.lease_id,)}
    for lease in (first, second):
        with pytest.raises(LeaseGone, match="preempted"):
            world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)


async def test_whoever_shares_does_so_before_another_tenants_turn_and_does_not_come_before_it(start: Any) -> None:
    world = await start()
    lease = await world.lease(A, tenant="a", priority="interactive")
    world.now_s += 5.0
    waiting = await world.ask(B, tenant="b", priority="interactive")
    late = await world.lease(A, tenant="a", priority="interactive")
    assert (waiting.state, late.state, late.path) == ("queued", "active", "share")
    assert world.agent.granted == {"s0": (lease.lease_id, late.lease_id)}
    world.now_s += 5.0
    await world.ask(A, tenant="a", priority="interactive")
    assert list(world.agent.granted.values()) == [(waiting.lease_id,)], "a's is lent by now, and b's turn comes first"


async def test_whoever_is_let_in_to_an_engine_at_work_is_idle_when_its_work_ends(start: Any) -> None:
    world = await start()
    first = await world.lease(A)
    world.agent.tell(WorkBegan("s0", first.lease_id))
    second = await world.lease(A)
    world.now_s += 5.0
    world.coordinator.find_unused()
    assert world.coordinator.lease_service.heartbeat(second.lease_id, TRUSTED).state == "active"
    world.agent.tell(WorkEnded("s0", second.lease_id))
    assert world.coordinator.lease_service.heartbeat(second.lease_id, TRUSTED).state == "idle"


async def test_a_new_coordinator_learns_of_two_leases_on_one_slot(start: Any) -> None:
    agent, told = MemoryAgent("s0"), report("s0", A, "one", 9.0)
    agent.reports = {"s0": msgspec.structs.replace(told, grants=(*told.grants, *report("s0", A, "two", 5.0).grants))}
    agent.loaded, agent.granted, agent.incarnations = {"s0": A}, {"s0": ("one", "two")}, {"s0": 5}
    world = await start(agent=agent)
    lease_service = world.coordinator.lease_service
    assert [lease_service.heartbeat(lease_id, TRUSTED).state for lease_id in ("one", "two")] == ["active", "active"]
    assert charged(world) == ["one"]
    lease_service.release("one", TRUSTED)
    await world.settle()
    assert (agent.granted, charged(world)) == ({"s0": ("two",)}, ["two"])


async def test_a_lease_that_two_slots_claim_stays_where_it_went_last(start: Any) -> None:
    agent = MemoryAgent("s0", "s1")
    agent.reports = {"s0": report("s0", A, "one", 9.0), "s1": report("s1", A, "one", 2.0)}
    agent.loaded, agent.granted = {"s0": A, "s1": A}, {"s0": ("one",), "s1": ("one",)}
    world = await start(agent=agent)
    assert agent.granted == {"s1": ("one",)}
    assert world.states() == ["idle", "leased"]
    assert world.coordinator.lease_service.heartbeat("one", TRUSTED).state == "active"


async def test_a_lease_that_is_never_used_is_idle_before_long(start: Any) -> None:
    world = await start()
    lease = await world.lease(A, tenant="a", priority="interactive")
    world.now_s += 2.0
    other = await world.ask(B, tenant="b", priority="interactive")
    assert other.state == "queued"
    world.coordinator.find_unused()
    await world.settle()
    assert (await world.coordinator.lease_service.poll(other.lease_id, 0.0, TRUSTED)).state == "active"
    with pytest.raises(LeaseGone):
        world.coordinator.lease_service.heartbeat(lease.lease_id, TRUSTED)


@pytest.mark.parametrize("seed", range(12))
async def test_nothing_is_lost_or_doubled_whatever_fails(start: Any, seed: int) -> None:
    """Random holders and random failures: every request ends, and a slot serves what the coordinator believes."""
    dice = random.Random(seed)
    world = await start("s0", "s1", "s2")
    coordinator, agent = world.coordinator, world.agent

    def fails(name: str, slot_id: str, model: str) -> Any:
        if dice.random() > 0.1 or name == "stop":
            return None
        return SwapFailed("odd") if name == "swap" and dice.random() < 0.5 else EngineGone("gone")

    agent.fails = fails
    living: dict[str, str] = {}
    ended = 0
    for _ in range(150):
        world.now_s += dice.random()
        kind = dice.random()
        if kind < 0.45:
            model, tenant = dice.choice([A, B, C, "model://f/d"]), dice.choice("xyz")
            priority = dice.choice(["interactive", "normal", "batch"])
            isolation = dice.choice(["shared", "shared", "reset"])
            try:
                answer = await world.ask(model, tenant=tenant, priority=priority, isolation=isolation)
                living[answer.lease_id] = model
            except Unavailable:
                ended += 1
        elif kind < 0.7 and living:
            lease_id = dice.choice(list(living))
            coordinator.lease_service.release(lease_id, TRUSTED)
            del living[lease_id]
        elif kind < 0.8 and agent.loaded:
            agent.die(dice.choice(list(agent.loaded)))
        elif agent.granted:
            slot_id = dice.choice(list(agent.granted))
            event = dice.choice([WorkBegan, WorkEnded])
            for lease_id in agent.granted[slot_id]:
                agent.tell(event(slot_id, lease_id))
        await world.settle()
        for lease_id in list(living):
            try:
                coordinator.lease_service.heartbeat(lease_id, TRUSTED)
            except PilotlightError:
                del living[lease_id]
                ended += 1
        for slot in coordinator.pool.ledger.slots.values():
            if slot.state == "leased":
                assert set(agent.granted[slot.slot_id]) == set(slot.lease_ids)
                assert {living[lease_id] for lease_id in slot.lease_ids} == {agent.loaded[slot.slot_id]}
        sharers = {lease_id for slot in coordinator.pool.ledger.slots.values() for lease_id in slot.sharers}
        assert coordinator.pool.fair.sharing == sharers
    agent.fails = lambda name, slot_id, model: None
    for lease_id in living:
        coordinator.lease_service.release(lease_id, TRUSTED)
    await world.settle()
    assert set(world.states()) <= {"idle", "empty"}
    assert not coordinator.pool.fair.waiting
    assert not coordinator.pool.fair.running
    assert not coordinator.pool.fair.sharing
    assert (await world.lease(A)).state == "active"


D = "model://h/d"


async def test_an_engine_that_has_to_go_sleeps_and_is_woken(start: Any) -> None:
    world = await start(agent=MemoryAgent("s0", sleepers=2))
    for model in (A, C, A):
        await world.release(await world.lease(model))
    made_ready = [call[0] for call in world.agent.calls if call[0] not in {"grant", "revoke"}]
    assert made_ready == ["boot", "sleep", "boot", "sleep", "wake"]
    assert world.agent.loaded == {"s0": A}
    assert list(world.agent.asleep["s0"].values()) == [C]


async def test_a_sleeper_of_the_same_fingerprint_is_woken_and_swapped(start: Any) -> None:
    world = await start(agent=MemoryAgent("s0", sleepers=2))
    for model in (A, C):
        await world.release(await world.lease(model))
    answer = await world.lease(B)
    assert (answer.state, answer.path) == ("active", "wake")
    assert [call[0] for call in world.agent.calls][-4:] == ["sleep", "wake", "swap", "grant"]
    assert world.agent.loaded == {"s0": B}


async def test_the_sleeper_that_is_worth_least_ends_for_the_next_one(start: Any) -> None:
    world = await start(agent=MemoryAgent("s0", sleepers=1))
    for model in (A, A, C, C, C, D):
        await world.release(await world.lease(model))
    assert ("discard", "s0", A) in world.agent.calls
    assert list(world.agent.asleep["s0"].values()) == [C]
    assert [engine.model for engine in world.coordinator.pool.ledger.slots["s0"].sleeping] == [C]


async def test_two_engines_take_turns_where_one_may_sleep(start: Any) -> None:
    world = await start(agent=MemoryAgent("s0", sleepers=1))
    for model in (A, C, A, C):
        await world.release(await world.lease(model))
    assert [call[0] for call in world.agent.calls if call[0] not in {"grant", "revoke"}] == [
        "boot", "sleep", "boot", "sleep", "wake", "sleep", "wake",
    ]  # fmt: skip


async def test_a_sleeper_that_dies_is_forgotten_and_its_slot_goes_on(start: Any) -> None:
    world = await start(agent=MemoryAgent("s0", sleepers=1))
    await world.release(await world.lease(A))
    lease = await world.lease(C)
    world.agent.asleep["s0"].clear()
    world.agent.tell(EngineLost("s0", 1, ExitReport("killed")))
    await world.settle()
    assert (await world.coordinator.lease_service.poll(lease.lease_id, 0.0, TRUSTED)).state == "active"
    await world.release(lease)
    assert (await world.lease(A)).path == "fork"


async def test_a_wake_that_fails_boots_instead(start: Any) -> None:
    world = await start(agent=MemoryAgent("s0", sleepers=1))
    for model in (A, C):
        await world.release(await world.lease(model))
    world.agent.fails = lambda command, slot_id, model: EngineGone("no memory") if command == "wake" else None
    answer = await world.ask(A)
    await world.settle()
    assert (await world.coordinator.lease_service.poll(answer.lease_id, 0.0, TRUSTED)).state == "active"
    assert world.agent.loaded == {"s0": A}


async def test_a_new_coordinator_learns_what_sleeps(start: Any) -> None:
    agent = MemoryAgent("s0", sleepers=1)
    facts = ModelFacts(A, "f", "awq", 1000, 2**30, "ram", True)
    asleep = SleeperReport(3, EngineOrder(ModelOrder(A), facts, "m"), "a", "shared")
    agent.reports["s0"] = SlotReport("s0", SlotState.EMPTY, 4, sleeping=(asleep,))
    agent.asleep["s0"][3] = A
    world = await start(agent=agent)
    assert (await world.lease(A)).path == "wake"


async def test_a_tenant_that_wants_its_own_process_wakes_nobody_elses(start: Any) -> None:
    world = await start(agent=MemoryAgent("s0", sleepers=2))
    await world.release(await world.lease(A, tenant="globex", isolation="reset"))
    await world.release(await world.lease(C))
    assert (await world.lease(A, tenant="acme")).path == "fork"


async def test_a_model_that_keeps_failing_backs_off_and_its_slot_serves_others(start: Any) -> None:
    world = await start(policy=PoolPolicy(back_off=BackOff(8.0, 30.0, free=1)))
    world.agent.fails = lambda command, slot_id, model: EngineGone("crashed") if model == A else None
    failing = await world.ask(A)
    assert world.commands().count("boot") == 2, "the first failure is let off"
    waiting = await world.coordinator.lease_service.poll(failing.lease_id, 0.0, TRUSTED)
    assert waiting.state == "queued"
    assert "keep failing, the next is tried in 8.0 s" in waiting.reasons[0]
    other = await world.lease(B)
    assert other.state == "active"
    await world.release(other)
    with pytest.raises(Unavailable, match="the deadline is in 2"):
        await world.ask(A, deadline_s=2.0)
    world.now_s += 9.0
    await world.lease(C)
    with pytest.raises(PilotlightError, match="crashed"):
        await world.coordinator.lease_service.poll(failing.lease_id, 0.0, TRUSTED)


async def test_a_slot_in_which_everything_fails_backs_off_itself(start: Any) -> None:
    world = await start(driver=DriverSettings(back_off=BackOff(5.0, 30.0, free=1)))
    world.agent.fails = lambda command, slot_id, model: EngineGone("no device") if command == "boot" else None
    await world.ask(A)
    await world.ask(C)
    assert world.states() == ["failed"]
    (line,) = world.coordinator.slots()
    assert line.busy_left_s > 4.0
