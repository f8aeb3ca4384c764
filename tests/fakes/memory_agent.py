"""An agent without processes: engines are entries of a dict. Commands wait for the test when it holds them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from pilotlight_pool.agent_port import (
    AgentError,
    CommandHandlers,
    EngineEvent,
    EngineGone,
    EngineLost,
    ExitReport,
    Listener,
    SlotReport,
    SwapProven,
)
from pilotlight_pool.engine_orders import EngineOrder, EngineReady, Grant, ModelFacts, ModelOrder, SlotFacts
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.policy.placement.prediction import Tier
from pilotlight_protocol.errors import ModelNotFound, PilotlightError
from pilotlight_protocol.leases import Isolation
from pilotlight_protocol.swap_proofs import Combination, SwapEvidence, SwapProof

GIB = 2**30


class MemoryAgent(CommandHandlers):
    """`fails(command, slot_id, model)` may return an error to raise; `gate` None lets every command through at once.
    `release` is part of its fingerprints, as vLLM's version is."""

    def __init__(self, *slot_ids: str, memory_bytes: int = 4 * GIB, sleepers: int = 0, name: str = "memory") -> None:
        self.name = name
        self.release = ""
        self.adapter_rank = 16
        self.tiers: dict[str, Tier] = {}
        self.slots = tuple(SlotFacts(slot_id, "cpu", memory_bytes, 1, sleepers, GIB) for slot_id in slot_ids)
        self.calls: list[tuple[str, ...]] = []
        self.asked: list[tuple[str, str]] = []
        self.granted: dict[str, tuple[str, ...]] = {}
        self.adapters: dict[str, str] = {}
        self.told: dict[str, list[str]] = {}
        self.loaded: dict[str, str] = {}
        self.asleep: dict[str, dict[int, str]] = {slot_id: {} for slot_id in slot_ids}
        self.incarnations = dict.fromkeys(slot_ids, 0)
        self._booted = dict.fromkeys(slot_ids, 0)
        self.fails: Callable[[str, str, str], AgentError | PilotlightError | None] = lambda command, slot_id, model: (
            None
        )
        self.gate: asyncio.Event | None = None
        self.reports: dict[str, SlotReport] = {}
        self.proofs: dict[str, SwapProof] = {}
        self.combination: Combination | None = None
        self._listener: Listener = lambda event: None

    def zygote_ready_in_s(self) -> float:
        return 0.0

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def tell(self, event: EngineEvent) -> None:
        self._listener(event)

    def die(self, slot_id: str, reason: str = "killed") -> None:
        """The engine's process ends by itself."""
        self.loaded.pop(slot_id, None)
        self.granted.pop(slot_id, None)
        self.tell(EngineLost(slot_id, self.incarnations[slot_id], ExitReport(reason)))

    async def peek(self, order: ModelOrder) -> ModelFacts | None:
        self.asked.append(("peek", order.uri))
        if (error := self.fails("peek", "", order.uri)) is not None:
            raise error
        tier = self.tiers.get(order.uri, "ram")
        return None if tier == "remote" else msgspec.structs.replace(await self._facts(order), tier=tier)

    async def describe(self, order: ModelOrder) -> ModelFacts:
        self.asked.append(("describe", order.uri))
        if self.tiers.get(order.uri) == "remote":
            self.tiers[order.uri] = "disk"
        return msgspec.structs.replace(await self._facts(order), tier=self.tiers.get(order.uri, "ram"))

    async def _facts(self, order: ModelOrder) -> ModelFacts:
        """`model://fingerprint/name` with `?gib=` memory and `?boot` where a swap is not proven; engine arguments are
        part of the fingerprint. `tiers`: where its weights are, in RAM unless told."""
        if not order.uri.startswith("model://"):
            raise ModelNotFound(f"{order.uri} is not there")
        path, _, query = order.uri.removeprefix("model://").partition("?")
        arguments = "".join(f"+{name}={value}" for name, value in order.engine_args.items())
        fingerprint = path.partition("/")[0] + arguments + self.release
        gib = int(query.removeprefix("gib=")) if query.startswith("gib=") else 1
        if not order.adapter:
            return ModelFacts(
                order.uri, fingerprint, "awq", 1000, gib * GIB, "ram", query != "boot", combination=self.combination
            )
        fingerprint += f"+adapters of rank {self.adapter_rank}"
        return ModelFacts(
            order.uri, fingerprint, "awq", 1000, gib * GIB, "ram", False, order.adapter, self.adapter_rank
        )

    async def prove(self, a: EngineOrder, b: EngineOrder, wait_s: float) -> SwapProof:
        self.asked.append(("prove", f"{a.facts.key} {b.facts.key}"))
        assert a.facts.combination is not None
        evidence = SwapEvidence(models=(a.model_name, b.model_name))
        proof = SwapProof(combination=a.facts.combination, verdict="proven", reason="", evidence=evidence)
        await self.learn((proof,))
        self.tell(SwapProven(self.name, proof))
        return proof

    async def learn(self, proofs: tuple[SwapProof, ...]) -> tuple[SwapProof, ...]:
        self.proofs |= {proof.combination.key: proof for proof in proofs}
        return tuple(self.proofs.values())

    async def boot(self, slot_id: str, order: EngineOrder, deadline_s: float) -> EngineReady:
        assert slot_id not in self.loaded
        await self._command("boot", slot_id, order.facts.key)
        self._booted[slot_id] += 1
        self.incarnations[slot_id] = self._booted[slot_id]
        self.loaded[slot_id] = order.facts.key
        return EngineReady(self.incarnations[slot_id], 0.0, 0.0, {"load": 0.0})

    async def swap(self, slot_id: str, order: EngineOrder, deadline_s: float) -> EngineReady:
        self._living(slot_id)
        assert slot_id not in self.granted
        await self._command("swap", slot_id, order.facts.key)
        self._living(slot_id)
        self.loaded[slot_id] = order.facts.key
        return EngineReady(self.incarnations[slot_id], 0.0, 0.0, {"weights": 0.0})

    async def grant(self, slot_id: str, grant: Grant, tenant: str, isolation: Isolation) -> str:
        self._living(slot_id)
        assert grant.beside == (slot_id in self.granted)
        self.adapters[grant.lease_id] = grant.adapter.uri if grant.adapter is not None else ""
        await self._command("grant", slot_id, grant.adapter.uri if grant.adapter is not None else grant.lease_id)
        self._living(slot_id)
        others = self.granted.get(slot_id, ()) if grant.beside else ()
        self.granted[slot_id] = (*(lease_id for lease_id in others if lease_id != grant.lease_id), grant.lease_id)
        return f"unix:///{slot_id}"

    async def revoke(self, slot_id: str, lease_id: str, reason: str, deadline_s: float) -> None:
        self.told.setdefault(lease_id, []).append(reason)
        self._living(slot_id)
        await self._command("revoke", slot_id, lease_id)
        self._living(slot_id)
        left = tuple(other for other in self.granted.get(slot_id, ()) if other != lease_id)
        self.granted = {**self.granted, slot_id: left} if left else _without(self.granted, slot_id)

    async def stop(self, slot_id: str) -> None:
        await self._command("stop", slot_id, "")
        self.loaded.pop(slot_id, None)
        self.granted.pop(slot_id, None)

    async def sleep(self, slot_id: str, deadline_s: float) -> None:
        self._living(slot_id)
        assert slot_id not in self.granted
        await self._command("sleep", slot_id, self.loaded[slot_id])
        self.asleep[slot_id][self.incarnations[slot_id]] = self.loaded.pop(slot_id)

    async def wake(self, slot_id: str, incarnation: int, deadline_s: float) -> EngineReady:
        assert slot_id not in self.loaded
        model = self.asleep[slot_id].pop(incarnation)
        await self._command("wake", slot_id, model)
        self.incarnations[slot_id], self.loaded[slot_id] = incarnation, model
        return EngineReady(incarnation, 0.0, 0.0, {"wake": 0.0})

    async def discard(self, slot_id: str, incarnation: int) -> None:
        await self._command("discard", slot_id, self.asleep[slot_id].pop(incarnation))

    async def report(self) -> tuple[SlotReport, ...]:
        return tuple(
            self.reports.get(facts.slot_id, SlotReport(facts.slot_id, SlotState.EMPTY, 0)) for facts in self.slots
        )

    async def _command(self, name: str, slot_id: str, subject: str) -> None:
        self.calls.append((name, slot_id, subject))
        if self.gate is not None:
            await self.gate.wait()
        if (error := self.fails(name, slot_id, subject)) is not None:
            raise error

    def _living(self, slot_id: str) -> None:
        if slot_id not in self.loaded:
            raise EngineGone("there is no engine in this slot")


def _without(granted: dict[str, tuple[str, ...]], slot_id: str) -> dict[str, tuple[str, ...]]:
    return {key: leases for key, leases in granted.items() if key != slot_id}
