"""What the coordinator asks of an agent, and what an agent tells it: the seam between the two.

Commands return when they are done and raise when they failed; what happens by itself arrives as an event. Everything
that crosses is a msgspec struct, so that the two can also run apart. An agent never chooses: it does what it is told,
and it holds the truth about what it has granted.

    AgentError
    ├── AgentAway         the agent cannot be reached now: nobody knows whether the command was carried out
    ├── EngineGone        the engine process of that slot is dead (or was, before the command came)
    ├── SwapRefused       the engine serves what it served before; this model needs a boot
    ├── SwapFailed        the process lives, its weights are not to be trusted: stop it
    └── EngineRefused     booting it again the same way would fail again; the message says what to change
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.policy.placement.prediction import Tier
from pilotlight_protocol.leases import Isolation, Priority


class ExitReport(msgspec.Struct, frozen=True):
    """Why an engine process ended. As a text it is the reason alone, which whoever holds the engine is told. What the
    process wrote last is for the log: it has served others too."""

    reason: str
    log_tail: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.reason

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason!r}, {len(self.log_tail)} lines)"

    def for_log(self) -> str:
        """Its lines are indented, so that nobody takes them for lines of the log."""
        return "\n  | ".join((self.reason, *self.log_tail))


class AgentError(Exception):
    """A command failed; as a text it is for a person, also a holder. `report` has what else the log is told."""

    def __init__(self, report: ExitReport | str) -> None:
        self.report = report if isinstance(report, ExitReport) else ExitReport(report)
        super().__init__(self.report.reason)


class AgentAway(AgentError):
    pass


class EngineGone(AgentError):
    pass


class SwapRefused(AgentError):
    pass


class SwapFailed(AgentError):
    pass


class EngineRefused(AgentError):
    pass


class SlotFacts(msgspec.Struct, frozen=True):
    """A device share. `device`: `cpu`, `cuda:0`, a MIG UUID. `memory_bytes` is for the engine that is awake. `cpus`:
    threads it may use, 0 on a GPU. `sleepers` engines may sleep beside it, with `sleep_bytes` of weights in host
    memory; 0 where none can."""

    slot_id: str
    device: str
    memory_bytes: int
    cpus: int
    sleepers: int = 0
    sleep_bytes: int = 0


class ModelOrder(msgspec.Struct, frozen=True):
    """A model as a holder asks for it. `loras`: (name, directory)."""

    uri: str
    engine_args: dict[str, str] = {}
    quantization: str = "auto"
    loras: tuple[tuple[str, str], ...] = ()


class ModelFacts(msgspec.Struct, frozen=True):
    """What the agent found out about a model. `key` names the bytes that an engine would serve (files and adapters);
    `swappable`: exchanging weights of this quantization is proven on this device; `memory_bytes`: what an engine for
    it needs of a slot."""

    key: str
    fingerprint: str
    quantization: str
    weights_bytes: int
    memory_bytes: int
    tier: Tier
    swappable: bool

    @property
    def kind(self) -> tuple[str, str]:
        """Engines of one kind answer alike: the same bytes, booted with the same arguments."""
        return self.key, self.fingerprint


class EngineOrder(msgspec.Struct, frozen=True):
    """Which engine a slot is to run: the model's facts, what they were read from, and the name it is served under."""

    model: ModelOrder
    facts: ModelFacts
    model_name: str


class Grant(msgspec.Struct, frozen=True):
    """One lease on one engine, alone or `beside` those that are there. The agent keeps it, so that a new coordinator
    can learn of it. `held_s`: since when, as an age, because the clocks of two machines differ."""

    lease_id: str
    secret_sha256: str
    tenant: str
    model_name: str
    priority: Priority
    isolation: Isolation
    held_s: float = 0.0
    beside: bool = False


class EngineReady(msgspec.Struct, frozen=True):
    """A boot or swap is done. `incarnation` numbers the slot's processes; `weights_s` is what moving weights took,
    `zygote_s` what was waited for the zygote's imports, `phases_s` everything by name, in order; `swap_path` as in
    EngineInfo."""

    incarnation: int
    weights_s: float
    zygote_s: float
    phases_s: dict[str, float]
    swap_path: str = ""


class SleeperReport(msgspec.Struct, frozen=True):
    """An engine that sleeps in a slot; `tenant` and `isolation` as in SlotReport."""

    incarnation: int
    engine: EngineOrder
    tenant: str
    isolation: Isolation


class SlotReport(msgspec.Struct, frozen=True):
    """One slot as its agent knows it; `tenant` and `isolation` are what the process remembers (policy.isolation)."""

    slot_id: str
    state: SlotState
    incarnation: int
    engine: EngineOrder | None = None
    tenant: str = ""
    isolation: Isolation = "shared"
    grants: tuple[Grant, ...] = ()
    idle: bool = True
    endpoint: str = ""
    swap_path: str = ""
    sleeping: tuple[SleeperReport, ...] = ()


class EngineLost(msgspec.Struct, frozen=True, tag="lost"):
    """`incarnation` counts a slot's engine processes, so that late news about an old one are recognised."""

    slot_id: str
    incarnation: int
    report: ExitReport


class WorkBegan(msgspec.Struct, frozen=True, tag="busy"):
    slot_id: str
    lease_id: str


class WorkEnded(msgspec.Struct, frozen=True, tag="idle"):
    slot_id: str
    lease_id: str


EngineEvent = EngineLost | WorkBegan | WorkEnded
Listener = Callable[[EngineEvent], None]


class AgentPort(Protocol):
    """One agent. Commands for one slot never overlap; the coordinator sees to that."""

    name: str
    slots: tuple[SlotFacts, ...]

    def zygote_ready_in_s(self) -> float:
        """Predicted seconds until engines can be forked; 0 while the zygote is ready."""
        ...

    def listen(self, listener: Listener) -> None:
        """Hear events from now on; `listener` must not block."""
        ...

    async def peek(self, order: ModelOrder) -> ModelFacts | None:
        """What is known of the model without fetching anything; None where it would have to be fetched first. Raises
        PilotlightError: it cannot be had here."""
        ...

    async def describe(self, order: ModelOrder) -> ModelFacts:
        """Fetch the model where it is not here yet and say what it is. Raises PilotlightError (400, 404, 5xx)."""
        ...

    async def boot(self, slot_id: str, order: EngineOrder, deadline_s: float) -> EngineReady:
        """Fork (or start) an engine in an empty slot. Raises EngineGone, EngineRefused, or PilotlightError
        where the model is not (any more) what was asked for; then it is empty again."""
        ...

    async def swap(self, slot_id: str, order: EngineOrder, deadline_s: float) -> EngineReady:
        """Exchange the weights of an idle engine. Raises EngineGone, SwapFailed; and where it is as it was before,
        SwapRefused, or PilotlightError as `boot` does."""
        ...

    async def grant(self, slot_id: str, grant: Grant, tenant: str, isolation: Isolation) -> str:
        """Serve the lease; returns the endpoint (`unix:///…`, `tcp://host:port`). `tenant` and `isolation`: what the
        process remembers from now on. Raises EngineGone."""
        ...

    async def revoke(self, slot_id: str, lease_id: str, reason: str, deadline_s: float) -> None:
        """End the lease's streams and connection and drop its KV cache. A lease that is not there (any more) is fine.
        Raises EngineGone, also where the engine did not answer in time."""
        ...

    async def stop(self, slot_id: str) -> None:
        """End the engine process, gently if it hears it; returns when its memory is free. An empty slot is fine."""
        ...

    async def sleep(self, slot_id: str, deadline_s: float) -> None:
        """Put the idle engine to sleep: the slot is then empty and the device's memory free. Raises EngineGone."""
        ...

    async def wake(self, slot_id: str, incarnation: int, deadline_s: float) -> EngineReady:
        """Wake a sleeping engine into the empty slot, with the weights it fell asleep with. Raises EngineGone."""
        ...

    async def discard(self, slot_id: str, incarnation: int) -> None:
        """End a sleeping engine; returns when its memory is free. One that is gone is fine."""
        ...

    async def report(self) -> tuple[SlotReport, ...]:
        """Every slot."""
        ...
