"""What agent and coordinator say to each other comes out as it went in; errors keep their class."""

from __future__ import annotations

from types import NoneType
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from memory_agent import MemoryAgent

from pilotlight_pool.agent.agent import Agent
from pilotlight_pool.agent_port import (
    AgentAway,
    AgentError,
    AnyCommand,
    Command,
    EngineGone,
    EngineLost,
    EngineRefused,
    ExitReport,
    SlotCommand,
    SlotReport,
    SwapFailed,
    SwapProven,
    WorkBegan,
    WorkEnded,
)
from pilotlight_pool.engine_orders import EngineOrder, EngineReady, Grant, ModelFacts, ModelOrder, SlotFacts
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.remote import frames
from pilotlight_protocol.errors import InvalidInput, ModelNotFound, PilotlightError, Unavailable
from pilotlight_protocol.leases import Isolation
from pilotlight_protocol.swap_proofs import Combination, SwapEvidence, SwapProof
from pilotlight_store.errors import SourceUnavailable, StoreFull, VerificationFailed

FACTS = ModelFacts("k", "f", "awq", 1, 2, "remote", True)
ORDER = EngineOrder(ModelOrder("hf://a/b", {"max_model_len": "64"}, loras=(("x", "/x"),)), FACTS, "m")
GRANT = Grant("l", "h", "t", "m", "batch", "reset", 1.5)
COMBINATION = Combination(
    vllm="1", torch="2", loader="3", architecture="Llama", quantization="fp8", scheme="{}", dtype="bfloat16",
    tied="true", device="cuda", capability="9.0", compiled=True, workers="1", arguments=(("block_size", "32"),),
)  # fmt: skip
PROOF = SwapProof(
    combination=COMBINATION, verdict="refuted", reason="r",
    evidence=SwapEvidence(models=("a", "b"), booted=("1", "2"), differences=("d",), times_s={"boot A": 1.5}),
)  # fmt: skip
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
            for event in (
                EngineLost("s", 1, ExitReport("r", ("l",))),
                WorkBegan("s", "l"),
                WorkEnded("s", "l"),
                SwapProven("a", PROOF),
            )
        ),
    ],
)
def test_what_an_agent_says(frame: frames.FromAgent) -> None:
    assert msgspec.msgpack.decode(frames.encode(frame), type=frames.FromAgent) == frame


COMMANDS: tuple[type[Command[Any]], ...] = get_args(AnyCommand)
EXAMPLES: dict[Any, Any] = {
    str: "s", float: 1.0, int: 3, ModelOrder: ORDER.model, EngineOrder: ORDER, Grant: GRANT, Isolation: "dedicated",
    ModelFacts: FACTS, ModelFacts | None: None, EngineReady: EngineReady(3, 0.5, 0.0, {"load": 0.5}), NoneType: None,
    SwapProof: PROOF, tuple[SwapProof, ...]: (PROOF, PROOF),
}  # fmt: skip


def an_example(kind: type[Command[Any]]) -> Command[Any]:
    return kind(*(EXAMPLES[hint] for hint in fields_of(kind).values()))


def fields_of(kind: type[Command[Any]]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def answer_of(kind: type[Command[Any]]) -> Any:
    return get_args(kind.__orig_bases__[0])[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_and_its_answer_come_out_as_they_went_in(kind: type[Command[Any]]) -> None:
    command = an_example(kind)
    call = frames.Call(7, command)  # type: ignore[arg-type]
    assert msgspec.msgpack.decode(frames.encode(call), type=frames.FromCoordinator) == call
    value = EXAMPLES[answer_of(kind)]
    done = msgspec.msgpack.decode(frames.encode(frames.Done(7, frames.value(value))), type=frames.FromAgent)
    assert isinstance(done, frames.Done)
    assert frames.answer(command, done.value) == value


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("agent", [Agent, MemoryAgent])
def test_an_agent_has_a_handler_for_every_command(agent: type, kind: type[Command[Any]]) -> None:
    hints = get_type_hints(getattr(agent, an_example(kind).name))
    assert (hints.pop("return"), hints) == (answer_of(kind), fields_of(kind))


def test_every_command_is_in_the_table() -> None:
    found = {kind for base in (Command, SlotCommand) for kind in base.__subclasses__()} - {SlotCommand}
    assert {kind for kind in found if "[" not in kind.__name__} == set(COMMANDS)


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
