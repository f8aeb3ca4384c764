"""What the agents know of a model: one answer for placement, and where its weights are, seen from each agent.

With one agent it is asked and that is all. With several, everyone says what it knows without fetching, and the one that
has the model nearest says for sure; nobody downloads what another node has on its disk already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight_pool.agent_port import AgentError, AgentPort, Describe, Peek
from pilotlight_pool.engine_orders import EngineOrder, ModelFacts, ModelOrder
from pilotlight_pool.policy.placement.prediction import Tier
from pilotlight_protocol.errors import PilotlightError, Unavailable
from pilotlight_protocol.model_reference import parse_model_reference

_PEEK_DEADLINE_S = 2.0
_NEAREST: tuple[Tier, ...] = ("ram", "disk", "remote")


@dataclass(frozen=True, slots=True)
class Found:
    """`facts` of the agent that was asked. `on_agents`: what single ones say, None where it cannot be had; an agent
    that is not in it would have to fetch the model first."""

    facts: ModelFacts
    on_agents: dict[str, ModelFacts | None]


async def find(agents: Sequence[AgentPort], order: ModelOrder) -> Found:
    """Raises PilotlightError: what `describe` raises where nobody has the model, or Unavailable without agents."""
    if len(agents) < 2:
        return await _certain(agents, {}, order)
    answers = await asyncio.gather(*(_peek(agent, order) for agent in agents))
    peeked = {agent.name: answer for agent, answer in zip(agents, answers, strict=True)}
    able = [agent for agent in agents if not isinstance(peeked[agent.name], PilotlightError)]
    if not able:
        raise next(found for found in peeked.values() if isinstance(found, PilotlightError))
    able.sort(key=lambda agent: _distance(peeked[agent.name]))
    return await _certain(able, peeked, order)


async def why_not_any_more(agent: AgentPort, order: EngineOrder) -> str:
    """Why the model is not what was asked for any more, "" where nothing is known against it."""
    found = await _peek(agent, order.model)
    if isinstance(found, PilotlightError):
        return found.message
    # A stored model is kept as it was asked for, whatever was fetched since.
    if found is None or found.key == order.facts.key or not parse_model_reference(order.model.uri).in_place:
        return ""
    return f"{order.model.uri} has changed since it was asked for"


async def fetched(agent: AgentPort, order: EngineOrder, deadline_s: float) -> tuple[ModelFacts | None, str]:
    """What the agent says of the model once it is on its node; None, and why, where it cannot be served there."""
    try:
        async with asyncio.timeout(deadline_s):
            found = await agent.do(Describe(order.model))
    except (PilotlightError, TimeoutError) as error:
        return None, error.message if isinstance(error, PilotlightError) else "it was not fetched in time"
    return (found, "") if found.is_of(order.facts) else (None, "the model there is another one")


async def _certain(
    able: Sequence[AgentPort], peeked: dict[str, ModelFacts | PilotlightError | None], order: ModelOrder
) -> Found:
    for agent in able:
        try:
            facts = await agent.do(Describe(order))
        except AgentError:
            continue
        on_agents: dict[str, ModelFacts | None] = {agent.name: facts}
        for name, found in peeked.items():
            if isinstance(found, PilotlightError):
                on_agents[name] = None
            elif found is not None and name != agent.name and found.is_of(facts):
                on_agents[name] = found
        return Found(facts, on_agents)
    raise Unavailable("no agent answers; ask again", retry_after_s=2.0)


async def _peek(agent: AgentPort, order: ModelOrder) -> ModelFacts | PilotlightError | None:
    try:
        async with asyncio.timeout(_PEEK_DEADLINE_S):
            return await agent.do(Peek(order))
    except PilotlightError as error:
        return error
    except (AgentError, TimeoutError):
        return None


def _distance(found: ModelFacts | PilotlightError | None) -> int:
    return _NEAREST.index(found.tier) if isinstance(found, ModelFacts) else len(_NEAREST)
