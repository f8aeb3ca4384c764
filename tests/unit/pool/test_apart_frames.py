"""What agent and coordinator say to each other comes out as it went in; errors keep their class."""

from __future__ import annotations

import msgspec
import pytest

from pilotlight_pool.agent_port import (
    AgentAway,
    AgentError,
    EngineGone,
    EngineLost,
    EngineOrder,
    EngineRefused,
    ExitReport,
    Grant,
    ModelFacts,
    ModelOrder,
    SlotFacts,
    SlotReport,
    SwapFailed,
    WorkBegan,
    WorkEnded,
)
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.remote import frames
from pilotlight_protocol.errors import InvalidInput, ModelNotFound, PilotlightError, Unavailable
from pilotlight_store.errors import SourceUnavailable, StoreFull, VerificationFailed

FACTS = ModelFacts("k", "f", "awq", 1, 2, "remote", True)
ORDER = EngineOrder(ModelOrder("hf://a/b", {"max_model_len": "64"}, loras=(("x", "/x"),)), FACTS, "m")
GRANT = Grant("l", "h", "t", "m", "batch", "reset", 1.5)
REPORT = SlotReport("a/0", SlotState.LEASED, 3, ORDER, "t", "reset", (GRANT,), False, "tcp://h:1")


@pytest.mark.parametrize(
    "frame",
    [
        frames.Register(1, "a", "i", 9, (SlotFacts("a/0", "cpu:0", 1, 2),), (REPORT,), 0.5),
        frames.Settled(REPORT),
        frames.Leaving(),
        frames.Done(1, frames.value(FACTS)),
        *(
            frames.Happened(event)
            for event in (EngineLost("s", 1, ExitReport("r", ("l",))), WorkBegan("s", "l"), WorkEnded("s", "l"))
        ),
    ],
)
def test_what_an_agent_says(frame: frames.FromAgent) -> None:
    assert msgspec.msgpack.decode(frames.encode(frame), type=frames.FromAgent) == frame


@pytest.mark.parametrize(
    "command",
    [
        frames.Peek(ORDER.model),
        frames.Describe(ORDER.model),
        frames.Boot("s", ORDER, 1.0),
        frames.Swap("s", ORDER, 1.0),
        frames.GrantLease("s", GRANT, "t", "dedicated"),
        frames.Revoke("s", "l", "r", 1.0),
        frames.Stop("s"),
    ],
)
def test_what_a_coordinator_says(command: frames.Command) -> None:
    call = frames.Call(7, command)
    assert msgspec.msgpack.decode(frames.encode(call), type=frames.FromCoordinator) == call


@pytest.mark.parametrize(
    "kind",
    [AgentError, AgentAway, EngineGone, SwapFailed, EngineRefused, InvalidInput, ModelNotFound, Unavailable, StoreFull]
    + [VerificationFailed, SourceUnavailable],
)
def test_an_error_keeps_its_class_and_words(kind: type[AgentError] | type[PilotlightError]) -> None:
    sent = msgspec.msgpack.decode(frames.encode(frames.failure(3, kind("because"))), type=frames.FromAgent)
    assert isinstance(sent, frames.CommandFailed)
    error = frames.error_of(sent)
    assert (type(error), str(error)) == (kind, "because")


def kinds(base: type[AgentError]) -> list[type[AgentError]]:
    return [base, *(kind for sub in base.__subclasses__() for kind in kinds(sub))]


@pytest.mark.parametrize("kind", kinds(AgentError))
def test_no_text_of_an_error_has_what_the_process_wrote_last_and_the_log_has_it_at_either_end(
    kind: type[AgentError],
) -> None:
    report = ExitReport("it ended", ("prompt of another tenant",))
    error = frames.error_of(frames.failure(3, kind(report)))
    assert isinstance(error, AgentError)
    assert error.report == report
    event = EngineLost("s", 1, report)
    for thing in (report, error, event, error.args):
        assert "prompt" not in f"{thing} {thing!r}"
    assert report.for_log() == error.report.for_log() == "it ended\n  | prompt of another tenant"


def test_an_error_says_when_to_try_again_and_an_unknown_one_becomes_its_base() -> None:
    error = frames.error_of(frames.failure(3, Unavailable("later", retry_after_s=7.0)))
    assert isinstance(error, Unavailable)
    assert error.retry_after_s == 7.0

    class Special(ModelNotFound):
        pass

    assert type(frames.error_of(frames.failure(3, Special("x")))) is ModelNotFound
