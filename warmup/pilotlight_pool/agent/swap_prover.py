"""Proves a swap, or refutes it: boots both models, swaps both ways, compares (`swap_proofs.judge`).

    boot B, examine, end  ->  boot A, examine  ->  swap to B, examine  ->  swap to A, examine, end

One engine at a time, with what the slot has; whoever cancels gets the slot back at once. Engines boot for a proof
alone: nothing that was compiled for one model is used for the other, nobody holds a lease on them.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from pilotlight_pool.agent.engine_forks import EngineForks
from pilotlight_pool.agent.engine_process import EngineProcess
from pilotlight_pool.agent.model_files import Located
from pilotlight_pool.agent_port import AgentError, EngineGone, SwapFailed
from pilotlight_pool.engine_orders import EngineOrder, SlotFacts
from pilotlight_protocol.engine_frames import Swap, SwapRefused
from pilotlight_protocol.swap_proofs import EngineState, ProofStates, SwapEvidence, SwapProof, Verdict, judge
from pilotlight_store import Hold

STEP_DEADLINE_S = 300.0
# Numbers of its engines, far from those of the slot's own.
_FIRST_NUMBER = 1 << 20

HoldModel = Callable[[EngineOrder, float], Awaitable[tuple[Located, Hold | None]]]


class SwapProver:
    """`hold`: NodeModels'."""

    def __init__(self, forks: EngineForks, hold: HoldModel) -> None:
        self._forks = forks
        self._hold = hold
        self._numbers = itertools.count(_FIRST_NUMBER)

    async def prove(self, slot: SlotFacts, a: EngineOrder, b: EngineOrder) -> SwapProof:
        """The verdict, whatever it is. Raises EngineGone where the machine and not the combination is to blame: it can
        be tried again. The slot must be empty."""
        combination = a.facts.combination
        if combination is None or a.facts.fingerprint != b.facts.fingerprint:
            raise ValueError("two models of one fingerprint, and a combination that runs here")
        times_s: dict[str, float] = {}
        path = ""
        states: ProofStates | None = None
        try:
            async with self._held(a) as at_a, self._held(b) as at_b:
                async with self._engine(slot, b, at_b, times_s, "boot B") as engine:
                    booted_b = await _examined(engine, times_s, "examine B")
                async with self._engine(slot, a, at_a, times_s, "boot A") as engine:
                    path = (await engine.booted(STEP_DEADLINE_S)).info.swap_path
                    booted_a = await _examined(engine, times_s, "examine A")
                    await _swapped(engine, 1, b, at_b, times_s, "swap to B")
                    swapped = await _examined(engine, times_s, "examine swapped")
                    await _swapped(engine, 2, a, at_a, times_s, "swap to A")
                    back = await _examined(engine, times_s, "examine back")
            states = ProofStates(booted_a, booted_b, swapped, back)
            verdict, reason, found = judge(states)
        except _NotSwapped as error:
            verdict, reason, found = error.verdict, str(error), ()
        evidence = _evidence((a, b), states, path, found, times_s)
        return SwapProof(combination=combination, verdict=verdict, reason=reason, evidence=evidence)

    @contextlib.asynccontextmanager
    async def _held(self, order: EngineOrder) -> AsyncIterator[Located]:
        located, hold = await self._hold(order, STEP_DEADLINE_S)
        try:
            yield located
        finally:
            if hold is not None:
                hold.release()

    @contextlib.asynccontextmanager
    async def _engine(
        self, slot: SlotFacts, order: EngineOrder, located: Located, times_s: dict[str, float], step: str
    ) -> AsyncIterator[EngineProcess]:
        began_s = time.monotonic()
        config = self._forks.config(slot, order, located, next(self._numbers))
        config = msgspec.structs.replace(config, slot=f"{slot.slot_id}.proof", swappable=True, proving=True)
        processes: list[EngineProcess] = []
        try:
            await self._forks.zygote.wait_ready()
            process = await self._forks.fork(config, lambda report: None, lambda busy: None, processes.append)
            try:
                await process.booted(STEP_DEADLINE_S)
            except AgentError as error:
                raise _NotSwapped("failed", f"an engine for {order.model_name} does not boot: {error}") from error
            times_s[step] = round(time.monotonic() - began_s, 3)
            yield process
        finally:
            for process in processes:
                process.kill()
                await process.end()


class _NotSwapped(Exception):
    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict: Verdict = verdict


async def _examined(engine: EngineProcess, times_s: dict[str, float], step: str) -> EngineState:
    began_s = time.monotonic()
    try:
        state = await engine.examine(STEP_DEADLINE_S)
    except EngineGone as error:
        raise _NotSwapped("failed", f"{step}: {error}") from error
    times_s[step] = round(time.monotonic() - began_s, 3)
    return state


async def _swapped(
    engine: EngineProcess, generation: int, order: EngineOrder, located: Located, times_s: dict[str, float], step: str
) -> None:
    began_s = time.monotonic()
    try:
        answer = await engine.swap(Swap(generation, str(located.folder), order.model_name), STEP_DEADLINE_S)
    except SwapFailed as error:
        # A file that could not be read, or memory that was short, says nothing of swaps; a difference of states does.
        raise _NotSwapped("failed", f"{step}: {error}") from error
    except EngineGone as error:
        # It may have been killed from outside, which says nothing of its swaps.
        raise _NotSwapped("failed", f"{step}: {error}") from error
    if isinstance(answer, SwapRefused):
        raise _NotSwapped("failed", f"{step}: {answer.reason}")
    times_s[step] = round(time.monotonic() - began_s, 3)


def _evidence(
    orders: tuple[EngineOrder, EngineOrder],
    states: ProofStates | None,
    path: str,
    found: tuple[str, ...],
    times_s: dict[str, float],
) -> SwapEvidence:
    a, b = orders
    evidence = SwapEvidence(
        models=(a.model_name, b.model_name),
        swap_path=path,
        differences=found,
        times_s=times_s,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if states is None:
        return evidence
    return msgspec.structs.replace(
        evidence,
        booted=(states.booted_a.digest, states.booted_b.digest),
        swapped=states.swapped.digest,
        back=states.back.digest,
        tensors=len(states.booted_a.tensors),
        tokens=sum(len(answer.tokens) for answer in states.booted_a.answers),
    )
