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

from collections.abc import Awaitable, Callable
from typing import ClassVar, Generic, Protocol, TypeVar

import msgspec

from pilotlight_pool.engine_orders import EngineOrder, EngineReady, Grant, ModelFacts, ModelOrder, SlotFacts
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_protocol.leases import Isolation
from pilotlight_protocol.swap_proofs import SwapProof

Answer = TypeVar("Answer")


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


class SwapProven(msgspec.Struct, frozen=True, tag="proof"):
    """A proof was made, whatever its verdict. `agent`: whose."""

    agent: str
    proof: SwapProof


EngineEvent = EngineLost | WorkBegan | WorkEnded | SwapProven
Listener = Callable[[EngineEvent], None]


class Command(msgspec.Struct, Generic[Answer], frozen=True, tag=str.lower):
    """What the coordinator asks of an agent, and the type of the answer. This class and an agent's method of its `name`
    with the same arguments are all there is to a command: calls, frames and dispatch follow from them."""

    patience_s: ClassVar[float] = 15.0

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    @property
    def deadline_in_s(self) -> float:
        """How long carrying it out may take: what it says itself, or the patience of its kind."""
        return float(getattr(self, "deadline_s", self.patience_s))


class Peek(Command[ModelFacts | None], frozen=True):
    """What is known of the model without fetching anything; None where it would have to be fetched first. Raises
    PilotlightError: it cannot be had here."""

    patience_s = 10.0
    order: ModelOrder


class Describe(Command[ModelFacts], frozen=True):
    """Fetch the model where it is not here yet and say what it is. Raises PilotlightError (400, 404, 5xx)."""

    patience_s = 3600.0
    order: ModelOrder


class SlotCommand(Command[Answer], Generic[Answer], frozen=True):
    """Commands for one slot never overlap; the coordinator sees to that."""

    slot_id: str


class Boot(SlotCommand[EngineReady], frozen=True):
    """Fork (or start) an engine in an empty slot. Raises EngineGone, EngineRefused, or PilotlightError where the model
    is not (any more) what was asked for; then it is empty again."""

    order: EngineOrder
    deadline_s: float


class Swap(SlotCommand[EngineReady], frozen=True):
    """Exchange the weights of an idle engine. Raises EngineGone, SwapFailed; and where it is as it was before,
    SwapRefused, or PilotlightError as Boot does."""

    order: EngineOrder
    deadline_s: float


class GrantLease(SlotCommand[str], frozen=True, tag="grant"):
    """Serve the lease; the answer is the endpoint (`unix:///…`, `tcp://host:port`). `tenant` and `isolation`: what the
    process remembers from now on. Raises EngineGone, or PilotlightError where the lease's adapter cannot be served; who
    else is there has not noticed."""

    grant: Grant
    tenant: str
    isolation: Isolation


class Revoke(SlotCommand[None], frozen=True):
    """End the lease's streams and connection and drop its KV cache. A lease that is not there (any more) is fine.
    Raises EngineGone, also where the engine did not answer in time."""

    lease_id: str
    reason: str
    deadline_s: float


class Stop(SlotCommand[None], frozen=True):
    """End the engine process, gently if it hears it; done when its memory is free. An empty slot is fine."""

    patience_s = 20.0


class Sleep(SlotCommand[None], frozen=True):
    """Put the idle engine to sleep: the slot is then empty and the device's memory free. Raises EngineGone."""

    deadline_s: float


class Wake(SlotCommand[EngineReady], frozen=True):
    """Wake a sleeping engine into the empty slot, with the weights it fell asleep with. Raises EngineGone."""

    incarnation: int
    deadline_s: float


class Discard(SlotCommand[None], frozen=True):
    """End a sleeping engine; done when its memory is free. One that is gone is fine."""

    patience_s = 20.0
    incarnation: int


class Prove(Command[SwapProof], frozen=True):
    """Prove swaps between two models of one fingerprint, or refute them, in a slot that is or becomes empty within
    `wait_s`. Raises Unavailable where none does, or when the proof had to give way; EngineGone."""

    patience_s = 1800.0
    a: EngineOrder
    b: EngineOrder
    wait_s: float


class Learn(Command[tuple[SwapProof, ...]], frozen=True):
    """Believe these as well; the answer is all that the agent knows."""

    proofs: tuple[SwapProof, ...]


AnyCommand = Prove | Learn | Peek | Describe | Boot | Swap | GrantLease | Revoke | Stop | Sleep | Wake | Discard


class AgentPort(Protocol):
    """One agent."""

    name: str
    slots: tuple[SlotFacts, ...]

    def zygote_ready_in_s(self) -> float:
        """Predicted seconds until engines can be forked; 0 while the zygote is ready."""
        ...

    def listen(self, listener: Listener) -> None:
        """Hear events from now on; `listener` must not block."""
        ...

    async def do(self, command: Command[Answer]) -> Answer:
        """Raises what the command says, and AgentAway."""
        ...

    async def report(self) -> tuple[SlotReport, ...]:
        """Every slot."""
        ...


class CommandHandlers:
    """`do` of an agent that has a method for each command, called as the command is and with its fields."""

    async def do(self, command: Command[Answer]) -> Answer:
        handler: Callable[..., Awaitable[Answer]] = getattr(self, command.name)
        return await handler(*msgspec.structs.astuple(command))
