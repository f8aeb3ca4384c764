"""What churn breaks, and how: SIGKILL, and SIGSTOP for a while or until the agent notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
from collections.abc import Sequence

import psutil

from churn_harness.apart import ApartChurnPool
from churn_harness.gateway_door import GatewayDoor
from churn_harness.pool import ChurnPool, ThinPredictor
from churn_harness.tally import Tally

# The agent pings an engine every 5 s and waits 15 s for an answer; of one that boots it sees within 12 s that it is
# stopped. The rest is for a busy machine.
FROZEN_FOUND_S = 35.0
PAUSE_S = (1.0, 4.0)


class Killer:
    """`kill` does one thing and returns whether there was anything to do it to. `aim` is taken by the next stream."""

    def __init__(
        self,
        pool: ChurnPool,
        predictors: Sequence[ThinPredictor],
        tally: Tally,
        dice: random.Random,
        door: GatewayDoor | None = None,
    ) -> None:
        self._pool, self._predictors, self._tally, self._dice, self._door = pool, predictors, tally, dice, door
        self.aim = False

    async def kill(self, kind: str) -> bool:
        match kind:
            case "predictor":
                predictor = self._dice.choice(self._predictors)
                self._tally.kills_now(kind, predictor.endpoint.name)
                predictor.kill()
                return True
            case "gateway":
                if self._door is None:
                    return False
                self._tally.kills_now(kind, self._door.name)
                self._door.kill()
                return True
            case "service":
                self._tally.kills_now(kind, "service", "engine")
                self._left(await self._pool.kill())
                await self._pool.start()
                self._tally.blames("service", "engine")
                return True
            case "agent":
                assert isinstance(self._pool, ApartChurnPool)
                self._tally.kills_now(kind, "engine")
                self._pool.kill_agent()
                await self._pool.start_agent()
                self._tally.blames("engine")
                return True
            case "coordinator":
                assert isinstance(self._pool, ApartChurnPool)
                self._tally.kills_now(kind, "service")
                self._pool.kill_coordinator()
                self._pool.start_coordinator()
                await self._pool.until_registered()
                self._tally.blames("service")
                return True
            case "stream":
                self.aim = True
                return True
            case "zygote":
                return self._signal(kind, self._pool.zygote(), signal.SIGKILL)
            case "engine":
                return self._signal(kind, self._some_engine(), signal.SIGKILL)
            case "pause":
                pid = self._some_engine()
                if not self._signal(kind, pid, signal.SIGSTOP):
                    return False
                await asyncio.sleep(self._dice.uniform(*PAUSE_S))
                assert pid is not None
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                return True
            case "freeze":
                pid = self._some_engine()
                if not self._signal(kind, pid, signal.SIGSTOP):
                    return False
                assert pid is not None
                await self._found(pid)
                return True
        raise ValueError(kind)

    async def shoot(self, slot_id: str) -> bool:
        """Kill the engine of this slot; for a stream that runs on it."""
        number = re.fullmatch(r"(?:\S+/)?cpu:(\d+)\S*", slot_id)
        return number is not None and self._signal("stream", self._pool.engine(int(number[1])), signal.SIGKILL)

    async def _found(self, pid: int) -> None:
        """A process that stands still for good must be found and replaced."""
        try:
            with contextlib.suppress(psutil.NoSuchProcess):
                await asyncio.to_thread(psutil.Process(pid).wait, FROZEN_FOUND_S)
        except psutil.TimeoutExpired:
            self._tally.is_wrong(f"the engine {pid} stood still for {FROZEN_FOUND_S:.0f} s and nobody noticed")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._tally.blames("engine")

    def _signal(self, kind: str, pid: int | None, number: signal.Signals) -> bool:
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        self._tally.kills_now(kind, "engine")
        return True

    def _some_engine(self) -> int | None:
        slots = range(self._pool.slots)
        pids = [self._pool.engine(slot) for slot in self._dice.sample(slots, len(slots))]
        return next((pid for pid in pids if pid is not None), None)

    def _left(self, pids: list[int]) -> None:
        if pids:
            self._tally.is_wrong(f"processes left behind by the service after SIGKILL: {pids}")
