"""Proofs of swaps as the coordinator knows them: told by agents, passed on to the others, shown to an operator.

Must not decide what is swapped: each agent does, by its own book.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence

from pilotlight_pool.agent_port import AgentError, AgentPort, Learn
from pilotlight_pool.engine_orders import EngineOrder
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.leases import ProofsAnswer, UnprovenLine, proof_line
from pilotlight_protocol.swap_proofs import SwapProof, outweighs

_MOST_MODELS = 10


class SharedProofs:
    """`agents`: those that can be asked now. `exchange` and `hear` take as long as agents do; the caller owns them."""

    def __init__(self, agents: Callable[[], Sequence[AgentPort]]) -> None:
        self._agents = agents
        self._proofs: dict[str, SwapProof] = {}

    async def exchange(self, agent: AgentPort) -> None:
        """An agent has come: it learns what the others know, they what it knows."""
        with contextlib.suppress(AgentError, PilotlightError):
            told = await agent.do(Learn(tuple(self._proofs.values())))
            if new := self._taken(told):
                await self._tell(new, agent)

    async def hear(self, proof: SwapProof, source: str) -> None:
        """An agent has made one."""
        for agent in self._agents():
            if agent.name == source and (new := self._taken([proof])):
                await self._tell(new, agent)

    def answer(self, known: Iterable[EngineOrder]) -> ProofsAnswer:
        """`known`: models that were asked for; those without a proof are named by their combination."""
        return ProofsAnswer(
            tuple(proof_line(proof) for proof in self._proofs.values()),
            tuple(_unproven(orders) for orders in self.unproven(known)),
        )

    def unproven(self, known: Iterable[EngineOrder]) -> list[list[EngineOrder]]:
        """Those of one fingerprint together, whose combination has no verdict."""
        found: dict[str, list[EngineOrder]] = {}
        for order in known:
            combination = order.facts.combination
            if combination is not None and combination.key not in self._proofs:
                found.setdefault(order.facts.fingerprint, []).append(order)
        return list(found.values())

    def _taken(self, proofs: Iterable[SwapProof]) -> tuple[SwapProof, ...]:
        new = tuple(proof for proof in proofs if outweighs(proof, self._proofs.get(proof.combination.key)))
        self._proofs.update((proof.combination.key, proof) for proof in new)
        return new

    async def _tell(self, proofs: tuple[SwapProof, ...], source: AgentPort) -> None:
        async def told(agent: AgentPort) -> None:
            with contextlib.suppress(AgentError, PilotlightError):
                await agent.do(Learn(proofs))

        await asyncio.gather(*(told(agent) for agent in self._agents() if agent is not source))


def _unproven(orders: Sequence[EngineOrder]) -> UnprovenLine:
    first = orders[0]
    assert first.facts.combination is not None  # else they were not listed
    uris = tuple(dict.fromkeys(order.model.uri for order in orders))[:_MOST_MODELS]
    combination, model = first.facts.combination, first.model
    swapped = first.facts.swappable
    return UnprovenLine(combination.key, combination.name, uris, model.engine_args, model.quantization, swapped)
