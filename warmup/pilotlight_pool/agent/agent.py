"""The agent of one node as `agent_port.AgentPort`: slots, their engine processes, and what it has granted.

Holds the truth about grants: a coordinator that starts anew learns them from `report`. Chooses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable

from pilotlight_pool.agent.engine_addresses import EngineAddresses
from pilotlight_pool.agent.engine_forks import EngineForks
from pilotlight_pool.agent.engine_instance import AgentSlot, EngineInstance
from pilotlight_pool.agent.engine_process import EngineProcess
from pilotlight_pool.agent.idle_proofs import IdleProofs
from pilotlight_pool.agent.model_files import Located, ModelFiles
from pilotlight_pool.agent.node_models import NodeModels
from pilotlight_pool.agent.proof_book import ProofBook
from pilotlight_pool.agent.stopped_processes import StoppedProcesses
from pilotlight_pool.agent.swap_checks import SwapChecks
from pilotlight_pool.agent.swap_prover import SwapProver
from pilotlight_pool.agent.zygote import Zygote
from pilotlight_pool.agent_port import (
    CommandHandlers,
    EngineEvent,
    EngineGone,
    EngineLost,
    ExitReport,
    Listener,
    SlotReport,
    SwapFailed,
    SwapProven,
    SwapRefused,
    WorkBegan,
    WorkEnded,
)
from pilotlight_pool.engine_orders import EngineOrder, EngineReady, Grant, ModelFacts, ModelOrder, SlotFacts
from pilotlight_protocol import engine_frames
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.leases import Isolation
from pilotlight_protocol.swap_proofs import SwapProof
from pilotlight_store import Hold

log = logging.getLogger(__name__)
_GRANT_DEADLINE_S = 10.0
# Weights to pinned memory; the KV cache is dropped.
_SLEEP_LEVEL = 1
_PING_PERIOD_S = 5.0
# The thread that answers does nothing else: it is late only when the whole process stands still.
_PING_DEADLINE_S = 15.0
_CHECK_PERIOD_S = 10.0
# Longer than any step and any swap: frames are answered in order.
_CHECK_DEADLINE_S = 90.0
# Who starts has been stopped for ten to twelve seconds when it is killed.
_LOOK_PERIOD_S = 2.0
_STOPPED_LOOKS = 6
_STOOD_STILL = f"it was stopped for {_STOPPED_LOOKS * _LOOK_PERIOD_S:g} s while it started, so it was killed"


class Agent(CommandHandlers):
    """`run` until cancelled; then every engine is ended. `addresses`: where engines listen."""

    def __init__(
        self,
        name: str,
        slots: tuple[SlotFacts, ...],
        files: ModelFiles,
        zygote: Zygote,
        addresses: EngineAddresses,
        proofs: ProofBook,
    ) -> None:
        self.name = name
        self.slots = slots
        self._models = NodeModels(files)
        self._forks = EngineForks(zygote, addresses)
        self._slots = {facts.slot_id: AgentSlot(facts) for facts in slots}
        self._listener: Listener | None = None
        self._swap_checks = SwapChecks(time.monotonic, proofs.verdict)
        prover = SwapProver(self._forks, self._models.hold)
        self._book = proofs
        self._proofs = IdleProofs(tuple(self._slots.values()), prover, proofs, self._proven)

    def zygote_ready_in_s(self) -> float:
        return self._forks.zygote.ready_in_s()

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._forks.zygote.run(), name="zygote")
                tasks.create_task(self._proofs.run(), name="proofs")
                tasks.create_task(self._asking(EngineProcess.ping, _PING_PERIOD_S, _PING_DEADLINE_S), name="pings")
                tasks.create_task(self._asking(EngineProcess.check, _CHECK_PERIOD_S, _CHECK_DEADLINE_S), name="checks")
                tasks.create_task(self._watching_starts(), name="starts")
        finally:
            self._listener = None
            for engine in [engine for slot in self._slots.values() for engine in slot.engines()]:
                engine.let_go()
                if engine.process is not None:
                    engine.process.kill()
            await self._models.close()

    async def peek(self, order: ModelOrder) -> ModelFacts | None:
        facts = await self._models.peek(order)
        return self._swap_checks.as_proven(facts) if facts is not None else None

    async def describe(self, order: ModelOrder) -> ModelFacts:
        return self._swap_checks.as_proven(await self._models.describe(order))

    async def prove(self, a: EngineOrder, b: EngineOrder, wait_s: float) -> SwapProof:
        """Raises InvalidInput where this node would make other engines of them: it can prove its own swaps alone."""
        for order in (a, b):
            if not await self._is_ours(order):
                raise InvalidInput("this node serves these models in another way; ask for a proof of its own")
        return await self._proofs.prove(a, b, wait_s)

    async def _is_ours(self, order: EngineOrder) -> bool:
        """What was found out of the model, here or on another node, is what this node finds."""
        facts = await self._models.describe(order.model)
        return (facts.fingerprint, facts.combination) == (order.facts.fingerprint, order.facts.combination)

    async def learn(self, proofs: tuple[SwapProof, ...]) -> tuple[SwapProof, ...]:
        self._book.learn(proofs)
        return tuple(self._book.proofs.values())

    async def boot(self, slot_id: str, order: EngineOrder, deadline_s: float) -> EngineReady:
        async with self._proofs.kept_out(slot_id):
            return await self._boot(slot_id, order, deadline_s)

    async def _boot(self, slot_id: str, order: EngineOrder, deadline_s: float) -> EngineReady:
        slot, began_s = self._slots[slot_id], time.monotonic()
        located, hold = await self._models.hold(order, deadline_s)
        slot.booted += 1
        slot.engine = engine = EngineInstance(slot.booted, order, hold)
        try:
            fetched_s = time.monotonic()
            await self._forks.zygote.wait_ready()
            forking_s = time.monotonic()
            process = await self._fork(slot, engine, located)
            booting_s = time.monotonic()
            booted = await process.booted(max(1.0, began_s + deadline_s - booting_s))
        except (EngineGone, asyncio.CancelledError):
            await self.stop(slot_id)
            raise
        engine.endpoint, engine.swap_path = booted.endpoint, booted.info.swap_path
        self._swap_checks.booted(order.facts.kind, booted.swap_check)
        if await self._is_ours(order):
            self._proofs.pending.met(order)
        phases_s = {
            "fetch": fetched_s - began_s,
            "zygote": forking_s - fetched_s,
            "request": booting_s - forking_s,
            **booted.info.boot_phases_s,
        }
        return EngineReady(
            engine.incarnation, phases_s.get("load", 0.0), phases_s["zygote"], phases_s, engine.swap_path
        )

    async def swap(self, slot_id: str, order: EngineOrder, deadline_s: float) -> EngineReady:
        engine = self._slots[slot_id].awake
        if not self._swap_checks.as_proven(order.facts).swappable:
            # What ordered it may be older than the news: a schedule's engine, a hold.
            raise SwapRefused("swaps of this kind are not proven on this node, or one has failed lately")
        located, hold = await self._models.hold(order, deadline_s)
        engine.generation += 1
        frame = engine_frames.Swap(engine.generation, str(located.folder), order.model_name, list(order.model.loras))
        with contextlib.ExitStack() as unless_swapped:
            if hold is not None:
                unless_swapped.callback(hold.release)
            try:
                answer = await engine.living.swap(frame, deadline_s)
                if isinstance(answer, engine_frames.SwapRefused):
                    raise SwapRefused(answer.reason)
                self._swap_checks.compare(order.facts.kind, answer.swap_check)
            except (SwapFailed, SwapRefused):
                self._swap_checks.failed(order.facts.kind)
                raise
            unless_swapped.pop_all()
        engine.exchange(order, hold)
        return EngineReady(
            engine.incarnation, answer.phases_s.get("weights", 0.0), 0.0, answer.phases_s, engine.swap_path
        )

    async def grant(self, slot_id: str, grant: Grant, tenant: str, isolation: Isolation) -> str:
        slot = self._slots[slot_id]
        adapter, hold = await self._adapter(grant)
        frame = engine_frames.Grant(
            grant.lease_id, grant.secret_sha256, grant.tenant, grant.model_name, grant.beside, adapter
        )
        try:
            engine = slot.awake
            slot.let_in(grant, hold)
        except EngineGone:
            if hold is not None:
                hold.release()
            raise
        engine.tenant, engine.isolation = tenant, isolation
        try:
            await engine.living.grant(frame, _GRANT_DEADLINE_S)
        except BaseException:
            slot.forget_grant(grant.lease_id)
            raise
        return engine.endpoint

    async def _adapter(self, grant: Grant) -> tuple[engine_frames.Adapter | None, Hold | None]:
        if grant.adapter is None:
            return None, None
        folder, stamp, hold = await self._models.hold_adapter(grant.adapter)
        # Of the tenant too: what a prompt has left in the cache is found by this name.
        name = hashlib.sha256(f"{grant.tenant}\0{grant.adapter.key}".encode()).hexdigest()
        return engine_frames.Adapter(name, str(folder), stamp), hold

    async def revoke(self, slot_id: str, lease_id: str, reason: str, deadline_s: float) -> None:
        slot = self._slots[slot_id]
        await slot.awake.living.revoke(engine_frames.Revoke(lease_id, reason), deadline_s)
        slot.forget_grant(lease_id)

    async def stop(self, slot_id: str) -> None:
        slot = self._slots[slot_id]
        engine, slot.engine = slot.engine, None
        slot.forget_grants()
        if engine is not None:
            await engine.end()

    async def sleep(self, slot_id: str, deadline_s: float) -> None:
        slot = self._slots[slot_id]
        engine = slot.awake
        await engine.living.sleep(engine_frames.Sleep(_SLEEP_LEVEL), deadline_s)
        slot.engine = None
        slot.forget_grants()
        slot.asleep[engine.incarnation] = engine

    async def wake(self, slot_id: str, incarnation: int, deadline_s: float) -> EngineReady:
        slot, began_s = self._slots[slot_id], time.monotonic()
        async with self._proofs.kept_out(slot_id):
            engine = slot.asleep.pop(incarnation, None)
            if engine is None:
                raise EngineGone("that engine sleeps here no more")
            slot.engine = engine
        await engine.living.wake(engine_frames.Wake(), deadline_s)
        return EngineReady(engine.incarnation, 0.0, 0.0, {"wake": time.monotonic() - began_s}, engine.swap_path)

    async def discard(self, slot_id: str, incarnation: int) -> None:
        engine = self._slots[slot_id].asleep.pop(incarnation, None)
        if engine is not None:
            await engine.end()

    async def report(self) -> tuple[SlotReport, ...]:
        return tuple(slot.report() for slot in self._slots.values())

    async def _asking(
        self, ask: Callable[[EngineProcess, float], Awaitable[None]], period_s: float, deadline_s: float
    ) -> None:
        """Find engines that do not answer any more: `ask` kills them, and their loss is told as any other."""
        while True:
            await asyncio.sleep(period_s)
            serving = [engine for slot in self._slots.values() for engine in slot.engines() if engine.endpoint]
            processes = [engine.process for engine in serving if engine.process is not None]
            await asyncio.gather(*(_asked(ask(process, deadline_s)) for process in processes))

    async def _watching_starts(self) -> None:
        """Find who stands still before it can be asked: engines that boot, and the zygote while one waits for it."""
        stopped = StoppedProcesses(_STOPPED_LOOKS)
        while True:
            await asyncio.sleep(_LOOK_PERIOD_S)
            engines = [engine.process for slot in self._slots.values() for engine in slot.engines()]
            started = [each for each in engines if each is not None]
            starting: list[Zygote | EngineProcess] = [self._forks.zygote, *started]
            watched = {pid: each for each in starting if (pid := each.starting_pid) is not None}
            for pid in stopped.look(watched):
                watched[pid].kill_because(_STOOD_STILL)

    async def _fork(self, slot: AgentSlot, engine: EngineInstance, located: Located) -> EngineProcess:
        def born(process: EngineProcess) -> None:
            engine.process = process

        return await self._forks.fork(
            self._forks.config(slot.facts, engine.order, located, engine.incarnation),
            on_lost=lambda report: self._lost(slot, engine, report),
            on_work=lambda busy: self._work(slot, engine, busy),
            on_process=born,
        )

    def _lost(self, slot: AgentSlot, engine: EngineInstance, report: ExitReport) -> None:
        engine.endpoint, engine.busy = "", False
        if slot.engine is engine:
            slot.forget_grants()
        elif slot.asleep.pop(engine.incarnation, None) is not None:
            engine.let_go()
        self._tell(EngineLost(slot.facts.slot_id, engine.incarnation, report))

    def _work(self, slot: AgentSlot, engine: EngineInstance, busy: bool) -> None:
        """The engine's work is that of every lease on it: it is idle when all of them are."""
        engine.busy = busy
        if busy:
            self._proofs.work_began(slot.facts)
        kind = WorkBegan if busy else WorkEnded
        for lease_id in slot.grants if slot.engine is engine else ():
            self._tell(kind(slot.facts.slot_id, lease_id))

    def _proven(self, proof: SwapProof) -> None:
        self._tell(SwapProven(self.name, proof))

    def _tell(self, event: EngineEvent) -> None:
        if self._listener is not None:
            self._listener(event)


async def _asked(question: Awaitable[None]) -> None:
    with contextlib.suppress(EngineGone):
        await question
