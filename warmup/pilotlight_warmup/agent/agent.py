"""The agent of one node as `agent_port.AgentPort`: slots, their engine processes, and what it has granted.

Holds the truth about grants: a coordinator that starts anew learns them from `report`. Chooses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from pilotlight_protocol import engine_frames
from pilotlight_protocol.engine_frames import Canary, HostConfig, Swapped, SwapRefused
from pilotlight_protocol.errors import PilotlightError

from pilotlight_warmup.agent.engine_output import EngineOutput
from pilotlight_warmup.agent.engine_process import EngineProcess
from pilotlight_warmup.agent.model_files import Located, ModelFiles
from pilotlight_warmup.agent.zygote import Zygote
from pilotlight_warmup.agent_port import (
    EngineEvent,
    EngineGone,
    EngineLost,
    EngineOrder,
    EngineReady,
    Grant,
    Listener,
    ModelFacts,
    ModelOrder,
    SlotFacts,
    SlotReport,
    SwapFailed,
    WorkBegan,
    WorkEnded,
)
from pilotlight_warmup.policy.lease_terms import Isolation
from pilotlight_warmup.policy.slot_lifecycle import SlotState
from pilotlight_warmup.store import Lease

log = logging.getLogger(__name__)
_GRANT_DEADLINE_S = 10.0
_CHECK_PERIOD_S = 10.0
# Longer than any step and any swap: frames are answered in order.
_CHECK_DEADLINE_S = 90.0
_MOST_CANARIES = 1024
_UNSWAPPABLE_S = 600.0
# Logprobs of one prompt differ in the last bits between a boot and a swap at most; another model's differ by far more.
_CANARY_TOLERANCE = 0.02


@dataclass
class _Seat:
    """One slot. `process` is None while it is empty; `busy` is the engine's own word."""

    facts: SlotFacts
    process: EngineProcess | None = None
    incarnation: int = 0
    generation: int = 0
    order: EngineOrder | None = None
    endpoint: str = ""
    tenant: str = ""
    isolation: Isolation = "shared"
    grant: Grant | None = None
    granted_s: float = 0.0
    busy: bool = False
    store_lease: Lease | None = field(default=None, repr=False)


class Agent:
    """`run` until cancelled; then every engine is ended. `run_dir` is private (0700): engines listen in it."""

    def __init__(
        self, name: str, slots: tuple[SlotFacts, ...], files: ModelFiles, zygote: Zygote, run_dir: Path
    ) -> None:
        self.name = name
        self.slots = slots
        self._files = files
        self._zygote = zygote
        self._run_dir = run_dir
        self._seats = {facts.slot_id: _Seat(facts) for facts in slots}
        self._listener: Listener | None = None
        self._canaries: dict[str, Canary] = {}
        self._unswappable: dict[str, float] = {}

    def zygote_ready_in_s(self) -> float:
        return self._zygote.ready_in_s()

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._zygote.run(), name="zygote")
                tasks.create_task(self._checking(), name="health")
        finally:
            self._listener = None
            for seat in self._seats.values():
                if seat.process is not None:
                    seat.process.kill()
                _release(seat)

    async def describe(self, order: ModelOrder) -> ModelFacts:
        facts = await asyncio.to_thread(self._files.describe, order)
        until_s = self._unswappable.get(facts.key)
        if until_s is not None and time.monotonic() < until_s:
            return msgspec.structs.replace(facts, swappable=False)
        return facts

    async def boot(self, slot_id: str, order: EngineOrder, deadline_s: float) -> EngineReady:
        seat, began_s = self._seats[slot_id], time.monotonic()
        located, lease = await self._fetch(order)
        seat.incarnation += 1
        seat.order, seat.store_lease, seat.tenant, seat.isolation = order, lease, "", "shared"
        incarnation = seat.incarnation
        try:
            fetched_s = time.monotonic()
            await self._zygote.wait_ready()
            forking_s = time.monotonic()
            process = await self._fork(seat, located, order)
            booting_s = time.monotonic()
            booted = await process.booted(max(1.0, began_s + deadline_s - booting_s))
        except (EngineGone, asyncio.CancelledError):
            await self.stop(slot_id)
            raise
        seat.endpoint = booted.endpoint
        self._remember_canary(order.facts.key, booted.canary)
        phases_s = {
            "fetch": fetched_s - began_s,
            "zygote": forking_s - fetched_s,
            "request": booting_s - forking_s,
            **booted.info.boot_phases_s,
        }
        return EngineReady(incarnation, phases_s.get("load", 0.0), phases_s["zygote"], phases_s)

    async def swap(self, slot_id: str, order: EngineOrder, deadline_s: float) -> EngineReady:
        seat = self._seats[slot_id]
        process = self._living(seat)
        located, lease = await self._fetch(order)
        seat.generation += 1
        frame = engine_frames.Swap(
            seat.generation, str(located.folder), order.model_name, list(order.model.loras), drain_s=0.0
        )
        try:
            answer = await process.swap(frame, deadline_s)
            if isinstance(answer, SwapRefused):
                raise SwapFailed(f"refused: {answer.reason}")
            self._check_canary(order.facts.key, answer)
        except SwapFailed:
            # Boot it the next time: what failed once would fail again, and every try costs an engine.
            self._unswappable[order.facts.key] = time.monotonic() + _UNSWAPPABLE_S
            if lease is not None:
                lease.release()
            raise
        except (EngineGone, asyncio.CancelledError):
            if lease is not None:
                lease.release()
            raise
        if seat.store_lease is not None:
            seat.store_lease.release()
        seat.order, seat.store_lease, seat.grant = order, lease, None
        return EngineReady(seat.incarnation, answer.phases_s.get("weights", 0.0), 0.0, answer.phases_s)

    async def grant(self, slot_id: str, grant: Grant, tenant: str, isolation: Isolation) -> str:
        seat = self._seats[slot_id]
        frame = engine_frames.Grant(grant.lease_id, grant.secret_sha256, grant.tenant)
        seat.grant, seat.granted_s = grant, time.monotonic()
        seat.tenant, seat.isolation = tenant, isolation
        await self._living(seat).grant(frame, _GRANT_DEADLINE_S)
        return seat.endpoint

    async def revoke(self, slot_id: str, lease_id: str, reason: str, deadline_s: float) -> None:
        seat = self._seats[slot_id]
        await self._living(seat).revoke(engine_frames.Revoke(lease_id, reason), deadline_s)
        if seat.grant is not None and seat.grant.lease_id == lease_id:
            seat.grant = None

    async def stop(self, slot_id: str) -> None:
        seat = self._seats[slot_id]
        process, seat.process = seat.process, None
        _release(seat)
        if process is not None:
            await process.end()

    async def report(self) -> tuple[SlotReport, ...]:
        return tuple(self._report(seat) for seat in self._seats.values())

    def _report(self, seat: _Seat) -> SlotReport:
        if seat.process is None or not seat.endpoint:
            state = SlotState.EMPTY if seat.process is None else SlotState.FAILED
            return SlotReport(seat.facts.slot_id, state, seat.incarnation, seat.order)
        grant = seat.grant
        if grant is not None:
            grant = msgspec.structs.replace(grant, held_s=time.monotonic() - seat.granted_s)
        return SlotReport(
            seat.facts.slot_id,
            SlotState.IDLE if grant is None else SlotState.LEASED,
            seat.incarnation,
            seat.order,
            seat.tenant,
            seat.isolation,
            grant,
            idle=not seat.busy,
            endpoint=seat.endpoint,
        )

    async def _checking(self) -> None:
        """Find engines that live and no longer step."""
        while True:
            await asyncio.sleep(_CHECK_PERIOD_S)
            processes = [seat.process for seat in self._seats.values() if seat.process is not None and seat.endpoint]
            await asyncio.gather(*(_checked(process) for process in processes))

    async def _fetch(self, order: EngineOrder) -> tuple[Located, Lease | None]:
        """The model as it was described. Raises EngineGone where it has changed or gone since."""
        try:
            facts = await asyncio.to_thread(self._files.describe, order.model)
            if facts.key != order.facts.key:
                raise EngineGone(f"{order.model.uri} has changed since it was asked for: ask again")
            located = await asyncio.to_thread(self._files.locate, order.model.uri)
            return located, await asyncio.to_thread(self._files.keep, located)
        except PilotlightError as error:
            raise EngineGone(f"the model cannot be read any more: {error.message}") from error

    async def _fork(self, seat: _Seat, located: Located, order: EngineOrder) -> EngineProcess:
        facts = seat.facts
        incarnation = seat.incarnation
        config = HostConfig(
            slot=facts.slot_id,
            listen=f"unix://{self._run_dir / _socket_name(facts.slot_id, incarnation)}",
            model_dir=str(located.folder),
            model_name=order.model_name,
            engine_args=dict(order.model.engine_args),
            quantization=order.model.quantization,
            loras=list(order.model.loras),
            device=facts.device,
            cpus=facts.cpus or None,
            memory_bytes=facts.memory_bytes,
        )
        output, output_fd = await EngineOutput.open(facts.slot_id)
        process = EngineProcess(
            output,
            on_lost=lambda reason: self._lost(seat, incarnation, reason),
            on_work=lambda busy: self._work(seat, busy),
        )
        seat.process = process
        ours, theirs = socket.socketpair()
        with theirs, open(output_fd, "wb", buffering=0):  # noqa: ASYNC230, PTH123  (closes the descriptor, nothing else)
            ours.setblocking(False)
            await asyncio.get_running_loop().create_connection(lambda: process, sock=ours)
            try:
                self._zygote.fork(config, process, theirs, output_fd)
            except EngineGone as error:
                process.not_started(str(error))
                raise
        return process

    def _living(self, seat: _Seat) -> EngineProcess:
        if seat.process is None:
            raise EngineGone("there is no engine in this slot")
        return seat.process

    def _lost(self, seat: _Seat, incarnation: int, reason: str) -> None:
        if seat.incarnation != incarnation:
            return
        seat.grant, seat.endpoint, seat.busy = None, "", False
        self._tell(EngineLost(seat.facts.slot_id, incarnation, reason))

    def _work(self, seat: _Seat, busy: bool) -> None:
        seat.busy = busy
        if seat.grant is not None:
            kind = WorkBegan if busy else WorkEnded
            self._tell(kind(seat.facts.slot_id, seat.grant.lease_id))

    def _tell(self, event: EngineEvent) -> None:
        if self._listener is not None:
            self._listener(event)

    def _remember_canary(self, key: str, canary: Canary) -> None:
        if len(self._canaries) >= _MOST_CANARIES:
            del self._canaries[next(iter(self._canaries))]
        self._canaries[key] = canary

    def _check_canary(self, key: str, swapped: Swapped) -> None:
        """A swapped engine must say what a booted one said, where that is known. Raises SwapFailed."""
        expected, found = self._canaries.get(key), swapped.canary
        if expected is None:
            return
        if expected.token_id != found.token_id or abs(expected.logprob - found.logprob) > _CANARY_TOLERANCE:
            raise SwapFailed(f"its first token is {found}, a freshly booted engine's was {expected}")


async def _checked(process: EngineProcess) -> None:
    with contextlib.suppress(EngineGone):
        await process.check(_CHECK_DEADLINE_S)


def _release(seat: _Seat) -> None:
    if seat.store_lease is not None:
        seat.store_lease.release()
    seat.order = seat.store_lease = seat.grant = None
    seat.endpoint, seat.busy, seat.tenant, seat.isolation = "", False, "", "shared"


def _socket_name(slot_id: str, incarnation: int) -> str:
    # Never the path of an earlier engine: a holder that comes late must find nobody there.
    return f"{slot_id.replace(':', '-').replace('/', '-')}.{incarnation}.sock"
