"""Makes proofs of swaps while a slot has nothing to do, or because somebody asked; one at a time, and it gives way.

Begun when a slot has been empty for a while, no engine of this node works and, on a CPU that all slots share, none is
leased; ended, its engines killed, as soon as the slot is wanted or work begins there. What gave way is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Never, Protocol

from pilotlight_pool.agent.engine_instance import AgentSlot
from pilotlight_pool.agent.pending_proofs import AGAIN_S, FAILED_AGAIN_S, PendingProofs
from pilotlight_pool.agent.proof_book import ProofBook
from pilotlight_pool.agent_port import AgentError
from pilotlight_pool.engine_orders import EngineOrder, SlotFacts
from pilotlight_protocol.errors import PilotlightError, Unavailable
from pilotlight_protocol.swap_proofs import SwapProof

log = logging.getLogger(__name__)
EMPTY_S = 10.0
LONGEST_S = 900.0
_LOOK_PERIOD_S = 1.0


class Prover(Protocol):
    """`SwapProver`, or a fake of a test."""

    async def prove(self, slot: SlotFacts, a: EngineOrder, b: EngineOrder) -> SwapProof: ...


@dataclass
class _Proving:
    """A proof under way. A second cancellation would reach it while it ends its engines."""

    slot_id: str
    on_cpu: bool
    task: asyncio.Task[SwapProof]
    ending: bool = False

    def end(self) -> None:
        if not self.ending:
            self.ending = True
            self.task.cancel()


class IdleProofs:
    """`run` until cancelled. `on_proof`: told of each new one."""

    def __init__(
        self,
        slots: Sequence[AgentSlot],
        prover: Prover,
        book: ProofBook,
        on_proof: Callable[[SwapProof], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._prover = prover
        self._book = book
        self._on_proof = on_proof
        self._clock = clock
        self._empty_since_s: dict[str, float] = {}
        self._wanted: Counter[str] = Counter()
        self._proving: _Proving | None = None
        self.pending = PendingProofs(book.verdict)

    async def run(self) -> Never:
        while True:
            await asyncio.sleep(_LOOK_PERIOD_S)
            now_s = self._clock()
            slot = self._free(now_s, EMPTY_S)
            pair = self.pending.next(slot.facts.memory_bytes, now_s) if slot is not None else None
            if slot is None or pair is None:
                continue
            combination = pair[0].facts.combination
            assert combination is not None
            self.pending.wait(combination, now_s, AGAIN_S)
            try:
                proof = await self._prove(slot, *pair)
                if proof.verdict == "failed":
                    self.pending.wait(combination, self._clock(), FAILED_AGAIN_S)
            except (PilotlightError, AgentError) as error:
                log.info("no proof of %s yet: %s", combination.name, error)
            except Exception:
                # Whatever is wrong with a proof, leases go on.
                log.exception("the proof of %s", combination.name)
                self.pending.wait(combination, self._clock(), FAILED_AGAIN_S)

    async def prove(self, a: EngineOrder, b: EngineOrder, deadline_s: float) -> SwapProof:
        """In the first slot that is empty. Raises Unavailable where none is in time, or when it had to give way."""
        until_s = self._clock() + deadline_s
        while True:
            now_s = self._clock()
            slot = self._free(now_s, 0.0)
            if slot is not None and max(a.facts.memory_bytes, b.facts.memory_bytes) <= slot.facts.memory_bytes:
                return await self._prove(slot, a, b)
            if now_s >= until_s:
                raise Unavailable(
                    "no slot of this node that is large enough is empty while nothing on it is leased; ask again"
                )
            await asyncio.sleep(_LOOK_PERIOD_S)

    @contextlib.asynccontextmanager
    async def kept_out(self, slot_id: str) -> AsyncIterator[None]:
        """No proof is in the slot within this block, nor in another one on the CPU that all share."""
        self._wanted[slot_id] += 1
        try:
            proving = self._proving
            if proving is not None and (proving.slot_id == slot_id or proving.on_cpu):
                proving.end()
                await asyncio.wait({proving.task})
            yield
        finally:
            self._wanted[slot_id] -= 1

    def work_began(self, slot: SlotFacts) -> None:
        if self._proving is not None and slot.device.startswith("cpu"):
            self._proving.end()

    def _free(self, now_s: float, empty_s: float) -> AgentSlot | None:
        """The slot that has been empty for the longest, where it was long enough and nothing works here."""
        for slot in self._slots:
            if slot.engine is None:
                self._empty_since_s.setdefault(slot.facts.slot_id, now_s)
            else:
                self._empty_since_s.pop(slot.facts.slot_id, None)
        if self._proving is not None or any(map(_needs_the_cpu, self._slots)):
            return None
        empty = [
            slot
            for slot in self._slots
            if slot.facts.slot_id in self._empty_since_s and not self._wanted[slot.facts.slot_id]
        ]
        longest = min(empty, key=lambda slot: self._empty_since_s[slot.facts.slot_id], default=None)
        if longest is None or now_s - self._empty_since_s[longest.facts.slot_id] < empty_s:
            return None
        return longest

    async def _prove(self, slot: AgentSlot, a: EngineOrder, b: EngineOrder) -> SwapProof:
        combination = a.facts.combination
        name = combination.name if combination is not None else ""
        log.info("proving swaps of %s in %s", name, slot.facts.slot_id)
        task = asyncio.create_task(self._prover.prove(slot.facts, a, b), name="proof")
        self._proving = proving = _Proving(slot.facts.slot_id, slot.facts.device.startswith("cpu"), task)
        try:
            await asyncio.wait({task}, timeout=LONGEST_S)
        finally:
            proving.end()
            await asyncio.wait({task})
            self._proving = None
        if task.cancelled():
            log.info("the proof of %s gave way", name)
            raise Unavailable("the proof gave way to a lease; it is tried again when the slot is idle")
        proof = task.result()
        log.info("swaps of %s are %s%s", name, proof.verdict, f": {proof.reason}" if proof.reason else "")
        self._book.add(proof)
        self._on_proof(proof)
        return proof


def _needs_the_cpu(slot: AgentSlot) -> bool:
    """Or boots: an engine that nobody can ask yet is one that somebody waits for."""
    busy = any(engine.busy or not engine.endpoint for engine in slot.engines())
    return busy or (bool(slot.grants) and slot.facts.device.startswith("cpu"))
