"""The engine thread of a host, over a fake engine and connections: who is let in, and what is gone after."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from pilotlight_engine.errors import SwapBroken, SwapNotPossible
from pilotlight_engine.host.agent_commands import AgentCommands
from pilotlight_engine.host.host_sockets import FromLease, Joined, LeaseLink, Left
from pilotlight_engine.host.lease_service import LeaseService, SharedBatch
from pilotlight_protocol.engine_frames import (
    Abort,
    Adapter,
    Busy,
    Check,
    Checked,
    ControlFrame,
    EngineInfo,
    EngineRequest,
    EngineStats,
    Examine,
    Examined,
    Failed,
    Generate,
    GenerateRequest,
    Grant,
    Granted,
    GrantRefused,
    Idle,
    LeaseHostFrame,
    Pool,
    Pooled,
    Refused,
    Rejected,
    Revoke,
    Revoked,
    Shutdown,
    Sleep,
    Slept,
    Step,
    Swap,
    SwapCheck,
    SwapFailed,
    Swapped,
    SwapRefused,
    Wake,
    Welcome,
    Woken,
)
from pilotlight_protocol.errors import InvalidInput, ModelNotFound, PilotlightError, Unavailable
from pilotlight_protocol.generation import GenerationParameters, TokenDelta
from pilotlight_protocol.pooling import PooledVector, PoolingParameters, PoolRequest
from pilotlight_protocol.swap_proofs import EngineState

INFO = EngineInfo(512, 1000, [2], 16, 10, "none", "fake", {})


@dataclass
class Report:
    phases_s: dict[str, float]


REFUSALS: dict[str, PilotlightError] = {
    "/bad": InvalidInput("no such adapter"),
    "/full": Unavailable("no room"),
    "/changed": ModelNotFound("it has changed"),
}


@dataclass
class FakeEngine:
    """Every request gets one token per step until it is aborted; one to pool gets its vector with the next step. Token
    13 in a prompt is refused."""

    swap_error: Exception | None = None
    can_sleep: bool = False
    batch_size: int = 256
    swap_check: SwapCheck = field(default_factory=lambda: SwapCheck(1, -0.5))
    log: list[str] = field(default_factory=list)
    running: dict[int, int] = field(default_factory=dict)
    pooling: dict[int, PooledVector] = field(default_factory=dict)
    pooled: list[tuple[int, PooledVector]] = field(default_factory=list)
    asked: dict[int, str] = field(default_factory=dict)
    most_running: list[int] = field(default_factory=list)
    adapters: dict[int, str] = field(default_factory=dict)

    def load_adapter(self, adapter: Adapter, in_use: Container[str]) -> None:
        if adapter.directory in REFUSALS:
            raise REFUSALS[adapter.directory]
        used = [other for other in ("adapter of a", "adapter of b") if other in in_use]
        self.log.append(f"load {adapter.name}, in use: {', '.join(used)}")

    def add(self, stream: int, request: EngineRequest, adapter: str = "") -> None:
        self.adapters[stream] = adapter
        if 13 in request.prompt_token_ids:
            raise InvalidInput("no thirteen")
        if isinstance(request, PoolRequest):
            self.pooling[stream] = PooledVector(bytes(request.prompt_token_ids), len(request.prompt_token_ids))
            return
        self.running[stream] = 0
        self.asked[stream] = request.request_id
        self.most_running.append(len(self.running))

    def abort(self, stream: int) -> None:
        self.running.pop(stream, None)
        self.pooling.pop(stream, None)

    def has_work(self) -> bool:
        return bool(self.running or self.pooling)

    def step(self) -> tuple[list[tuple[int, TokenDelta]], list[tuple[int, PilotlightError]]]:
        self.pooled += self.pooling.items()
        self.pooling = {}
        return [(stream, TokenDelta(0, [7])) for stream in self.running], []

    def take_pooled(self) -> list[tuple[int, PooledVector]]:
        pooled, self.pooled = self.pooled, []
        return pooled

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self.running))

    def describe(self, boot_phases_s: dict[str, float]) -> EngineInfo:
        return INFO

    def swap(self, model_dir: Path, model_name: str, loras: Sequence[tuple[str, str]]) -> Report:
        self.log.append(f"swap {model_name} while {len(self.running)} run")
        if self.swap_error is not None:
            raise self.swap_error
        return Report({"inspect": 0.1, "weights": 0.2})

    def examine(self) -> EngineState:
        self.log.append("examine")
        return EngineState((), ())

    def forget(self) -> None:
        self.log.append("forget")

    def renew_metrics(self) -> None:
        self.log.append("renew metrics")

    def rename(self, model_name: str) -> None:
        self.log.append(f"rename {model_name}")

    def sleep(self, level: int) -> None:
        self.log.append(f"sleep {level}")

    def wake(self) -> None:
        self.log.append("wake")

    def close(self) -> None:
        self.log.append("close")


_Frame = TypeVar("_Frame")


class Heard:
    """An outbox that keeps what it was given."""

    def __init__(self, frame_type: object) -> None:
        self._decoder = msgspec.msgpack.Decoder(frame_type)
        self.frames: list[object] = []
        self.room = True

    def has_room(self, deadline_s: float) -> bool:
        assert deadline_s <= 1.0, "an agent waits 5 s for Revoked"
        return self.room

    def send(self, frame: bytearray, *, wait: bool = True) -> None:
        assert self.room
        self.frames.append(self._decoder.decode(memoryview(frame)[4:]))

    def drain(self, deadline_s: float) -> bool:
        return True

    def of(self, kind: type[_Frame]) -> list[_Frame]:
        return [frame for frame in self.frames if isinstance(frame, kind)]


class FakeLease(LeaseLink):
    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.stall_s = 1.0
        self.outbox: Heard = Heard(LeaseHostFrame)  # type: ignore[assignment]  # a fake
        self.ended = False

    def end(self) -> None:
        self.ended = True


class FakeLink:
    """Gives the script item by item (a callable is run first and may return an item); Shutdown when it is over."""

    def __init__(self, script: Sequence[Any]) -> None:
        self.script = deque(script)
        self.control = Heard(ControlFrame)
        self.grants: Mapping[str, Grant] = {}
        self.tells_metrics = True
        self.inbox = self

    def take(self, *, wait: bool) -> list[object]:
        if not self.script:
            return [Shutdown()]
        item = self.script.popleft()
        if callable(item):
            item = item()
        return [] if item is None else [item]


def grant(lease: str, tenant: str = "a") -> Grant:
    return Grant(lease, "digest", tenant)


def ask(stream: int, *prompt: int) -> Generate:
    return Generate(stream, GenerateRequest("r", list(prompt) or [1], GenerationParameters()))


def ask_as(lease: str, stream: int) -> Generate:
    return Generate(stream, GenerateRequest(f"{lease}:{stream}", [1], GenerationParameters()))


def serve(link: FakeLink, engine: FakeEngine) -> None:
    leases = LeaseService(link, engine, "first", {})  # type: ignore[arg-type]  # a fake
    leases.serve(AgentCommands(link, engine, leases, clock=lambda: 0.0).obey)  # type: ignore[arg-type]  # a fake


def play(engine: FakeEngine, *script: object) -> FakeLink:
    link = FakeLink(script)
    serve(link, engine)
    return link


def test_a_lease_is_granted_welcomed_and_served() -> None:
    first = grant("L1")
    lease = FakeLease(first)
    link = play(
        FakeEngine(), first, Joined(lease), FromLease(lease, ask(5)), None, FromLease(lease, Check(9)),
        FromLease(lease, Abort(5)),
    )  # fmt: skip
    assert link.control.of(Granted) == [Granted("L1")]
    assert lease.outbox.of(Welcome) == [Welcome(INFO, EngineStats(), "first")]
    steps = lease.outbox.of(Step)
    assert steps[0] == Step([(5, TokenDelta(0, [7]))], EngineStats(running=1))
    assert lease.outbox.of(Checked) == [Checked(9)]
    assert [type(frame) for frame in link.control.frames] == [Granted, Busy, Idle]


def pool(stream: int, *prompt: int) -> Pool:
    return Pool(stream, PoolRequest("r", list(prompt), PoolingParameters()))


def test_vectors_go_to_who_asked_for_them_and_end_their_requests() -> None:
    first, second = grant("L1"), Grant("L2", "digest", "a", beside=True)
    one, two = FakeLease(first), FakeLease(second)
    link = play(
        FakeEngine(), first, second, Joined(one), Joined(two), FromLease(one, pool(5, 1, 2)),
        FromLease(two, pool(5, 3)), FromLease(one, pool(6, 13)), None, FromLease(one, Check(9)),
    )  # fmt: skip
    vectors = [entry for frame in one.outbox.of(Pooled) for entry in frame.vectors]
    assert vectors == [(5, PooledVector(bytes([1, 2]), 2))]
    assert [frame.vectors for frame in two.outbox.of(Pooled)] == [[(5, PooledVector(bytes([3]), 1))]]
    assert one.outbox.of(Refused) == [Refused(6, 400, "no thirteen")]
    assert [type(frame) for frame in link.control.frames if not isinstance(frame, Granted)][-1] is Idle


def test_a_vector_that_nobody_waits_for_any_more_goes_to_nobody() -> None:
    first, heir = grant("L1"), grant("L2", "b")
    one, two = FakeLease(first), FakeLease(heir)
    play(
        FakeEngine(), first, Joined(one), FromLease(one, pool(5, 1)), Revoke("L1", "preempted"), heir, Joined(two), None
    )
    assert not two.outbox.of(Pooled)


def test_an_engine_takes_the_name_under_which_it_is_lent() -> None:
    """Two endpoints may serve the same model: the second must not find an engine that calls itself by the first."""
    engine, second = FakeEngine(), Grant("L2", "digest", "b", "second")
    lease = FakeLease(second)
    play(engine, Grant("L1", "digest", "a", "first"), second, Joined(lease))
    assert lease.outbox.of(Welcome) == [Welcome(INFO, EngineStats(), "second")]
    assert engine.log == ["forget", "renew metrics", "rename second"]


def test_who_joins_under_a_grant_that_is_over_is_shown_out() -> None:
    old, new = grant("L1"), grant("L2")
    late = FakeLease(old)
    play(FakeEngine(), old, new, Joined(late), FromLease(late, ask(1)))
    assert late.ended
    assert not late.outbox.frames


def test_a_second_connection_of_the_lease_takes_over() -> None:
    first = grant("L1")
    one, two = FakeLease(first), FakeLease(first)
    engine = FakeEngine()
    play(engine, first, Joined(one), FromLease(one, ask(1)), Joined(two), FromLease(two, ask(1)))
    assert one.ended
    assert "took over" in one.outbox.of(Failed)[0].reason
    assert two.outbox.of(Step)
    assert "forget" not in engine.log


def test_revoking_aborts_closes_and_answers() -> None:
    first = grant("L1")
    lease = FakeLease(first)
    engine = FakeEngine()
    link = play(engine, first, Joined(lease), FromLease(lease, ask(1)), Revoke("L1", "preempted"), None)
    assert lease.ended
    assert lease.outbox.frames[-1] == Failed("preempted")
    assert link.control.of(Revoked) == [Revoked("L1")]
    assert not link.grants
    assert not engine.running


def test_a_holder_that_does_not_read_loses_its_connection_and_not_the_engine() -> None:
    first = grant("L1")
    lease = FakeLease(first)
    engine = FakeEngine()

    def fill() -> None:
        lease.outbox.room = False

    seen: list[bool] = []
    link = play(
        engine, first, Joined(lease), FromLease(lease, ask(1)), fill, lambda: seen.append(lease.ended), Left(lease),
        Revoke("L1", "preempted"),
    )  # fmt: skip
    assert seen == [True]
    assert not engine.running
    assert link.control.of(Revoked) == [Revoked("L1")]


def test_revoking_an_unknown_lease_leaves_the_other_alone() -> None:
    first = grant("L1")
    lease = FakeLease(first)
    seen: list[bool] = []
    link = play(FakeEngine(), first, Joined(lease), Revoke("other", "gone"), lambda: seen.append(lease.ended))
    assert link.control.of(Revoked) == [Revoked("other")]
    assert seen == [False]


@pytest.mark.parametrize(("tenants", "resets"), [(("a", "a"), 0), (("a", "b"), 1), (("a", "b", "a"), 2), (("a",), 0)])
def test_another_tenant_finds_nothing_of_the_one_before(tenants: tuple[str, ...], resets: int) -> None:
    engine = FakeEngine()
    play(engine, *(grant(f"L{number}", tenant) for number, tenant in enumerate(tenants)))
    assert engine.log == ["forget", "renew metrics"] * resets


def test_a_lease_that_left_stops_its_requests_and_may_come_back() -> None:
    first = grant("L1")
    one, two = FakeLease(first), FakeLease(first)
    engine = FakeEngine()
    running: list[int] = []
    play(
        engine, first, Joined(one), FromLease(one, ask(1)), Left(one), lambda: running.append(len(engine.running)),
        Joined(two),
    )  # fmt: skip
    assert running == [0]
    assert two.outbox.of(Welcome)


def test_a_swap_ends_the_lease_and_forgets_the_tenant() -> None:
    first, second = grant("L1", "a"), grant("L2", "b")
    lease, heir = FakeLease(first), FakeLease(second)
    engine = FakeEngine()
    link = play(engine, first, Joined(lease), FromLease(lease, ask(1)), Swap(4, "/m", "second"), second, Joined(heir))
    assert lease.ended
    assert link.control.of(Swapped) == [
        Swapped(4, {"drain": 0.0, "inspect": 0.1, "weights": 0.2}, INFO, SwapCheck(1, -0.5))
    ]
    assert engine.log == ["swap second while 0 run"]
    assert heir.outbox.of(Welcome) == [Welcome(INFO, EngineStats(), "second")]


def test_a_swap_that_is_not_possible_leaves_the_old_model() -> None:
    mine = grant("L1")
    lease = FakeLease(mine)
    engine = FakeEngine(swap_error=SwapNotPossible("other shape"))
    link = play(engine, Swap(1, "/m", "second"), mine, Joined(lease))
    assert link.control.of(SwapRefused) == [SwapRefused(1, "other shape")]
    assert lease.outbox.of(Welcome) == [Welcome(INFO, EngineStats(), "first")]


def test_a_swap_that_broke_ends_the_host_after_saying_so() -> None:
    link = FakeLink([Swap(1, "/m", "second"), Check(1)])
    with pytest.raises(SwapBroken):
        serve(link, FakeEngine(swap_error=SwapBroken("half")))
    assert link.control.frames == [SwapFailed(1, "half")]


def test_an_engine_is_examined_while_nobody_holds_it() -> None:
    first, engine = grant("L1"), FakeEngine()
    link = play(engine, Examine(), first, Examine(), Revoke("L1", "over"), Examine())
    assert [type(frame) for frame in link.control.frames if isinstance(frame, (Examined, Rejected))] == [
        Examined, Rejected, Examined,
    ]  # fmt: skip
    assert engine.log == ["examine", "examine"]


def test_a_refused_request_fails_alone() -> None:
    first = grant("L1")
    lease = FakeLease(first)
    play(FakeEngine(), first, Joined(lease), FromLease(lease, ask(1, 13)), FromLease(lease, ask(2)))
    assert lease.outbox.of(Refused) == [Refused(1, 400, "no thirteen")]
    assert lease.outbox.of(Step)


def test_sleep_needs_a_device_that_can() -> None:
    link = play(FakeEngine(), Sleep(1), Wake())
    assert [(frame.frame, frame.status) for frame in link.control.of(Rejected)] == [("Sleep", 501), ("Wake", 501)]


def test_a_sleeping_engine_refuses_work_until_it_wakes() -> None:
    engine = FakeEngine(can_sleep=True)
    first = grant("L1")
    lease = FakeLease(first)
    link = play(
        engine, Sleep(1), Sleep(1), first, Joined(lease), FromLease(lease, ask(1)), Wake(), FromLease(lease, ask(2))
    )
    assert engine.log == ["sleep 1", "wake"]
    assert link.control.of(Slept) == [Slept(), Slept()]
    assert link.control.of(Woken) == [Woken()]
    assert lease.outbox.of(Refused) == [Refused(1, 503, "the engine is asleep")]
    assert lease.outbox.of(Step)


def test_a_swap_wakes_first() -> None:
    engine = FakeEngine(can_sleep=True)
    play(engine, Sleep(2), Swap(1, "/m", "second"))
    assert engine.log == ["sleep 2", "wake", "swap second while 0 run"]


def test_frames_of_another_connection_are_rejected() -> None:
    (rejected,) = play(FakeEngine(), Abort(1)).control.of(Rejected)
    assert isinstance(rejected, Rejected)
    assert rejected.status == 400


def beside(lease: str, tenant: str = "a") -> Grant:
    return Grant(lease, "digest", tenant, beside=True)


def test_two_leases_of_one_tenant_share_the_engine_and_each_hears_of_its_own() -> None:
    one, two = grant("L1"), beside("L2")
    first, second = FakeLease(one), FakeLease(two)
    engine = FakeEngine()
    link = play(
        engine, one, two, Joined(first), Joined(second), FromLease(first, ask(5)), FromLease(second, ask(5)), None,
        FromLease(first, Abort(5)), None,
    )  # fmt: skip
    assert first.outbox.of(Step)[-1] == Step([], EngineStats(running=0))
    assert second.outbox.of(Step)[-1] == Step([(5, TokenDelta(0, [7]))], EngineStats(running=1))
    assert {stream for step in second.outbox.of(Step) for stream, _ in step.deltas} == {5}
    assert not engine.log
    assert [type(frame) for frame in link.control.frames] == [Granted, Granted, Busy]


def test_who_leaves_a_shared_engine_ends_its_own_requests_alone() -> None:
    one, two = grant("L1"), beside("L2")
    first, second = FakeLease(one), FakeLease(two)
    engine = FakeEngine()
    seen: list[tuple[bool, int]] = []
    link = play(
        engine, one, two, Joined(first), Joined(second), FromLease(first, ask(1)), FromLease(second, ask(1)),
        Revoke("L1", "expired"), None, lambda: seen.append((second.ended, len(engine.running))),
    )  # fmt: skip
    assert first.outbox.frames[-1] == Failed("expired")
    assert seen == [(False, 1)]
    assert link.control.of(Revoked) == [Revoked("L1")]


def test_a_grant_that_is_not_beside_ends_every_lease_that_is_there() -> None:
    one, two = grant("L1"), beside("L2")
    first, second = FakeLease(one), FakeLease(two)
    play(FakeEngine(), one, two, Joined(first), Joined(second), grant("L3"))
    assert first.ended
    assert second.ended


def test_nobody_is_let_in_beside_another_tenant() -> None:
    engine = FakeEngine()
    link = play(engine, grant("L1", "a"), beside("L2", "b"))
    assert [frame.frame for frame in link.control.of(Rejected)] == ["Grant"]
    assert set(link.grants) == set()
    assert not engine.log


def adapted(lease: str, tenant: str = "a", folder: str = "", *, beside: bool = True) -> Grant:
    adapter = Adapter(f"adapter of {tenant}", folder or f"/adapters/{tenant}", "stamp")
    return Grant(lease, "digest", tenant, f"model of {tenant}", beside, adapter)


def test_tenants_with_an_adapter_each_share_an_engine_and_every_request_runs_with_its_leases() -> None:
    engine, one, two = FakeEngine(), adapted("L1", "a", beside=False), adapted("L2", "b")
    first, second = FakeLease(one), FakeLease(two)
    link = play(engine, one, Joined(first), two, Joined(second), FromLease(second, ask(1)), FromLease(first, ask(1)))
    assert link.control.of(Granted) == [Granted("L1"), Granted("L2")]
    assert [welcome.model_name for lease in (first, second) for welcome in lease.outbox.of(Welcome)] == [
        "model of a", "model of b",
    ]  # fmt: skip
    assert list(engine.adapters.values()) == ["adapter of b", "adapter of a"]
    assert engine.log == ["load adapter of a, in use: ", "load adapter of b, in use: adapter of a"]
    assert not link.tells_metrics, "the engine's counters are not all of one tenant"


def test_a_tenant_that_has_the_engine_to_itself_again_finds_nothing_of_the_others() -> None:
    engine, again = FakeEngine(), adapted("L3", "b", beside=False)
    link = play(engine, adapted("L1", "a", beside=False), adapted("L2", "b"), Revoke("L1", ""), Revoke("L2", ""), again)
    assert engine.log[-2:] == ["forget", "renew metrics"]
    assert link.tells_metrics


@pytest.mark.parametrize("folder", REFUSALS)
def test_an_adapter_that_is_not_loaded_disturbs_nobody(folder: str) -> None:
    engine, one = FakeEngine(), adapted("L1", "a", beside=False)
    lease = FakeLease(one)
    link = play(
        engine, one, Joined(lease), FromLease(lease, ask(1)), adapted("L2", "b", folder),
        lambda: FromLease(lease, ask(len(engine.running) + 1)), None,
    )  # fmt: skip
    assert link.control.of(GrantRefused) == [GrantRefused("L2", REFUSALS[folder].message, REFUSALS[folder].http_status)]
    assert link.control.of(Granted) == [Granted("L1")]
    assert len(lease.outbox.of(Step)[-1].deltas) == 2
    assert link.tells_metrics


@pytest.mark.parametrize(
    ("there", "comes"),
    [(grant("L1", "a"), adapted("L2", "b")), (adapted("L1", "a", beside=False), beside("L2", "b"))],
)
def test_a_lease_without_an_adapter_shares_with_its_own_tenant_alone(there: Grant, comes: Grant) -> None:
    link = play(FakeEngine(), there, comes)
    assert [frame.frame for frame in link.control.of(Rejected)] == ["Grant"]


def test_a_long_queue_of_one_holder_does_not_starve_the_other() -> None:
    """150 that came first and 10 that came after, an engine that has 4 at work: the 10 are through after 20 turns."""
    one, two = grant("L1"), beside("L2")
    first, second = FakeLease(one), FakeLease(two)
    engine = FakeEngine(batch_size=4)
    order: list[str] = []

    def end_one() -> object:
        number = next(iter(engine.running))
        order.append(engine.asked[number])
        lease, stream = engine.asked[number].split(":")
        return FromLease({"L1": first, "L2": second}[lease], Abort(int(stream)))

    play(
        engine, one, two, Joined(first), Joined(second), *(FromLease(first, ask_as("L1", n)) for n in range(150)),
        *(FromLease(second, ask_as("L2", n)) for n in range(10)), *([end_one] * 40),
    )  # fmt: skip
    assert max(engine.most_running) == 4
    assert [place for place, asked in enumerate(order) if asked.startswith("L2")][-1] <= 4 + 2 * 10


def test_a_holders_own_requests_enter_by_priority_then_in_the_order_they_came() -> None:
    batch, nothing = SharedBatch(1), GenerateRequest("r", [1], GenerationParameters())
    for stream, priority in enumerate((0, 5, -1, 0)):
        batch.ask("L1", stream, nothing, priority=priority)
    batch.ask("L2", 9, nothing, priority=100)
    order = []
    while (turn := batch.next()) is not None:
        order.append((turn.lease_id, turn.stream))
        batch.forget(turn.number)
    assert order == [("L1", 2), ("L2", 9), ("L1", 0), ("L1", 3), ("L1", 1)]


@pytest.mark.parametrize("alone", [True, False])
def test_who_has_the_engine_to_itself_leaves_the_order_to_the_engine(alone: bool) -> None:
    """The engine's own queue knows priorities; where holders share, requests beyond a batch wait in front of it."""
    engine, mine, other = FakeEngine(), grant("own"), beside("other")
    lease = FakeLease(mine)
    asks = [FromLease(lease, ask(stream)) for stream in range(engine.batch_size + 3)]
    running: list[int] = []
    others = [] if alone else [other, Joined(FakeLease(other))]
    link = FakeLink([mine, Joined(lease), *others, *asks, lambda: running.append(len(engine.running))])
    serve(link, engine)
    assert running == [len(asks) if alone else engine.batch_size]
