"""The coordinator of the warm pool in virtual time: its own code, an agent without processes, a clock that jumps."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "fakes"))

from memory_agent import MemoryAgent

from pilotlight_pool.agent_port import SlotReport
from pilotlight_pool.coordinator.coordinator import Coordinator, CoordinatorSettings
from pilotlight_pool.engine_orders import EngineOrder, ModelFacts, ModelOrder
from pilotlight_pool.policy.leases.ledger import Slot
from pilotlight_pool.policy.leases.slot_lifecycle import SlotState
from pilotlight_pool.policy.placement.prediction import Tier

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting it moves the clock. Every turn takes a nanosecond, or what waits until a time would wait for
    the last bit of a float for ever."""

    now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        self.now_s += 1e-9 if ready or timeout is None else max(timeout, 1e-9)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to its next timer."""

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds that commands take. `swap_s` and `boot_s` by where the weights are; `ram_models`: how many models'
    weights stay in the page cache, least recently used first out."""

    boot_s: Mapping[Tier, float]
    swap_s: Mapping[Tier, float]
    revoke_s: float = 0.05
    stop_s: float = 0.5
    wake_s: float = 0.5
    ram_models: int = 64


class VirtualAgent(MemoryAgent):
    """An agent whose commands take time. `revoked`: set for each lease that was taken back or given back."""

    def __init__(self, slot_count: int, durations: Durations, sleepers: int = 0) -> None:
        super().__init__(*(f"slot:{n}" for n in range(slot_count)), sleepers=sleepers, name="virtual")
        self.durations = durations
        self.boots = 0
        self.revoked: dict[str, asyncio.Event] = {}
        self._in_ram: OrderedDict[str, None] = OrderedDict()

    def start_with(self, fingerprint: str) -> None:
        """Every slot has an idle engine of this architecture, with a model that nobody asks for."""
        for facts in self.slots:
            uri = f"model://{fingerprint}/none"
            order = EngineOrder(
                ModelOrder(uri), ModelFacts(uri, fingerprint, "awq", 1000, 2**30, "ram", swappable=True), "none"
            )
            self.loaded[facts.slot_id], self.incarnations[facts.slot_id] = uri, 1
            self.reports[facts.slot_id] = SlotReport(facts.slot_id, SlotState.IDLE, 1, order)

    async def _facts(self, order: ModelOrder) -> ModelFacts:
        return msgspec.structs.replace(await super()._facts(order), tier=self._tier(order.uri))

    async def describe(self, order: ModelOrder) -> ModelFacts:
        return await self._facts(order)

    async def peek(self, order: ModelOrder) -> ModelFacts | None:
        return await self._facts(order)

    async def _command(self, name: str, slot_id: str, subject: str) -> None:
        self.boots += name == "boot"
        await asyncio.sleep(self._seconds(name, subject))
        if name in {"boot", "swap"}:
            self._in_ram[subject] = None
            self._in_ram.move_to_end(subject)
            if len(self._in_ram) > self.durations.ram_models:
                self._in_ram.popitem(last=False)
        if name == "revoke" and subject in self.revoked:
            self.revoked[subject].set()

    def _seconds(self, name: str, subject: str) -> float:
        match name:
            case "boot":
                return self.durations.boot_s[self._tier(subject)]
            case "swap":
                return self.durations.swap_s[self._tier(subject)]
            case "revoke":
                return self.durations.revoke_s
            case "stop":
                return self.durations.stop_s
            case "sleep" | "wake":
                return self.durations.wake_s
        return 0.0

    def _tier(self, uri: str) -> Tier:
        return "ram" if uri in self._in_ram else "disk"


@dataclass
class SlotClock:
    """Integrates over virtual time what the slots are: `held_slot_s` with an engine or on the way to one, `idle_slot_s`
    without a lease while leases waited."""

    coordinator: Coordinator
    held_slot_s: float = 0.0
    idle_slot_s: float = 0.0
    peak_slots: int = 0
    _since_s: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    _held: int = 0
    _idle: int = 0

    def look(self) -> None:
        pool, now_s = self.coordinator.pool, asyncio.get_running_loop().time()
        self.held_slot_s += self._held * (now_s - self._since_s)
        self.idle_slot_s += self._idle * (now_s - self._since_s)
        self._since_s = now_s
        slots = pool.ledger.slots.values()
        self._held = sum(slot.state is not SlotState.EMPTY for slot in slots)
        self._idle = sum(_rests(slot) for slot in slots) if pool.fair.waiting else 0
        self.peak_slots = max(self.peak_slots, self._held)


def _rests(slot: Slot) -> bool:
    return slot.lease_id is None and slot.state in {SlotState.IDLE, SlotState.EMPTY}


def run(
    settings: CoordinatorSettings,
    agent: VirtualAgent,
    scenario: Callable[[Coordinator, SlotClock], Awaitable[T]],
) -> T:
    """Run `scenario` beside a coordinator of one agent, in virtual time; the coordinator ends with it."""

    async def main() -> T:
        loop = asyncio.get_running_loop()
        coordinator = Coordinator(settings, loop.time, loop.time)
        running = asyncio.create_task(coordinator.run([agent]))
        await coordinator.registry.arrived.wait()
        clock = SlotClock(coordinator)
        clock.look()
        coordinator.pool.on_change.append(lambda slot_ids: clock.look())
        playing = asyncio.ensure_future(scenario(coordinator, clock))
        await asyncio.wait({running, playing}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            playing.cancel()
            running.result()
        clock.look()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return playing.result()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())
