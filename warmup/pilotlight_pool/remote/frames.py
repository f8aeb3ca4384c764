"""What agent and coordinator say to each other: msgpack, one frame per WebSocket message. No I/O is done here.

    agent        -> coordinator   Register  Beat  Done  CommandFailed  Happened  Settled  Leaving
    coordinator  -> agent         Registered  Refused  Call  Beat

Register comes first and is answered by Registered or Refused. After a Register, slots that still carry out a command of
an earlier connection are missing from `reports`; each is told by a Settled when its command is done.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, TypeVar, get_args

import msgspec

from pilotlight_pool import agent_port
from pilotlight_pool.agent_port import AgentError, Answer, AnyCommand, Command, EngineEvent, ExitReport, SlotReport
from pilotlight_pool.engine_orders import SlotFacts
from pilotlight_protocol import errors
from pilotlight_protocol.errors import InternalError, PilotlightError, Unavailable
from pilotlight_store import errors as store_errors

MAX_FRAME_BYTES = 8 * 2**20


class Register(msgspec.Struct, frozen=True, tag="register"):
    """`seen_epoch`: the latest coordinator that this agent has obeyed."""

    protocol: int
    name: str
    instance: str
    seen_epoch: int
    slots: tuple[SlotFacts, ...]
    reports: tuple[SlotReport, ...]
    zygote_ready_in_s: float


class Registered(msgspec.Struct, frozen=True, tag="registered"):
    """`silent_s`: how long either end may say nothing; `beat_s`: how often it says something."""

    epoch: int
    beat_s: float
    silent_s: float


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    reason: str


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    zygote_ready_in_s: float = 0.0


class Call(msgspec.Struct, frozen=True, tag="call"):
    number: int
    command: AnyCommand


class Dropped(msgspec.Struct, frozen=True, tag="dropped"):
    """Nobody waits for the answer to this call any more; one for a slot is carried out all the same."""

    number: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """`value`: what the command answers, encoded."""

    number: int
    value: msgspec.Raw


class CommandFailed(msgspec.Struct, frozen=True, tag="failed"):
    """`kind`: the error's class by name; `log_tail`: of its ExitReport."""

    number: int
    kind: str
    message: str
    retry_after_s: float | None = None
    log_tail: tuple[str, ...] = ()


class Happened(msgspec.Struct, frozen=True, tag="event"):
    event: EngineEvent


class Settled(msgspec.Struct, frozen=True, tag="settled"):
    report: SlotReport


class Leaving(msgspec.Struct, frozen=True, tag="leaving"):
    """The agent ends soon: it takes no new work."""


FromAgent = Register | Beat | Done | CommandFailed | Happened | Settled | Leaving
FromCoordinator = Registered | Refused | Call | Dropped | Beat
Frame = FromAgent | FromCoordinator

_Error = TypeVar("_Error", bound=Exception)
_encoder = msgspec.msgpack.Encoder()


def _classes(module: ModuleType, base: type[_Error]) -> list[type[_Error]]:
    return [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, base)]


_ERRORS: dict[str, type[AgentError] | type[PilotlightError]] = {
    **{kind.__name__: kind for kind in _classes(agent_port, AgentError)},
    **{kind.__name__: kind for kind in _classes(errors, PilotlightError)},
    **{kind.__name__: kind for kind in _classes(store_errors, PilotlightError)},
}


def encode(frame: Frame) -> bytes:
    return _encoder.encode(frame)


def value(result: object) -> msgspec.Raw:
    return msgspec.Raw(_encoder.encode(result))


def answer(command: Command[Answer], value: msgspec.Raw) -> Answer:
    """What a `Done` says that the command has come to."""
    decoder: msgspec.msgpack.Decoder[Answer] = _answer_decoder(type(command))
    return decoder.decode(value)


@functools.cache
def _answer_decoder(kind: type[Command[Any]]) -> msgspec.msgpack.Decoder[Any]:
    (base,) = kind.__orig_bases__  # type: ignore[attr-defined]
    return msgspec.msgpack.Decoder(get_args(base)[0])


def failure(number: int, error: AgentError | PilotlightError) -> CommandFailed:
    """A class that the other end does not know becomes the nearest of its bases that it does."""
    kind = next((base.__name__ for base in type(error).__mro__ if base.__name__ in _ERRORS), InternalError.__name__)
    if isinstance(error, AgentError):
        return CommandFailed(number, kind, error.report.reason, log_tail=error.report.log_tail)
    return CommandFailed(number, kind, error.message, getattr(error, "retry_after_s", None))


def error_of(failed: CommandFailed) -> AgentError | PilotlightError:
    kind = _ERRORS.get(failed.kind, InternalError)
    if issubclass(kind, AgentError):
        return kind(ExitReport(failed.message, failed.log_tail))
    error = kind(failed.message)
    if failed.retry_after_s is not None and isinstance(error, Unavailable):
        error.retry_after_s = failed.retry_after_s
    return error
