"""A process of the platform itself (the warm pool, the gateway): started again when it ends, with a growing pause.

What it warns of is passed on to people. Must not: know what the process does.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight_local.pods.crash_backoff import PodEnd, crashed
from pilotlight_local.pods.log_watch import LogWatch
from pilotlight_local.pods.process_pod import PodProcess
from pilotlight_protocol.back_off import BackOff, Failures

BACK_OFF = BackOff(first_s=1.0, longest_s=30.0, forgotten_after_s=60.0)
RAN_WELL_S = 10.0
FAILURE_LOG_LINES = 10
LOG_PERIOD_S = 1.0


@dataclass(frozen=True)
class ProcessPlan:
    """`name` is what people call it. `prepare` makes its folders, off the event loop, before each start."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    working_dir: Path
    log_path: Path
    prepare: Callable[[], None]


class SupervisedProcess:
    def __init__(self, plan: ProcessPlan, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._process: PodProcess | None = None
        self._supervising: asyncio.Task[None] | None = None

    @property
    def is_started(self) -> bool:
        return self._supervising is not None

    def start(self) -> None:
        """Start it if it is not started yet; returns at once."""
        if self._supervising is None:
            self._supervising = asyncio.create_task(self._supervise(), name=self._plan.name)

    async def close(self, grace_s: float) -> None:
        """End it; returns when it and everything it started are gone."""
        if self._supervising is not None:
            self._supervising.cancel()
            await asyncio.wait({self._supervising})
        if self._process is not None:
            await self._process.stop(grace_s)

    async def _supervise(self) -> None:
        failures = Failures()
        while True:
            ended = await self._run_once()
            now_s = time.monotonic()
            failures = crashed(failures, ended, now_s, BACK_OFF)
            await asyncio.sleep(failures.wait_s(now_s))

    async def _run_once(self) -> PodEnd:
        plan, began_s = self._plan, time.monotonic()
        try:
            await asyncio.to_thread(plan.prepare)
            log_watch = LogWatch(plan.log_path, levels=("WARNING", "ERROR", "CRITICAL"))
            process = await PodProcess.start(plan.argv, plan.env, plan.working_dir, plan.log_path)
        except (OSError, TimeoutError) as error:
            self._tell(f"{plan.name}: cannot be started: {error}")
            return PodEnd(0.0)
        self._process = process
        telling = asyncio.create_task(self._tell_warnings(log_watch), name=f"{plan.name}'s warnings")
        try:
            exit_code = await process.wait()
        finally:
            telling.cancel()
        self._process = None
        lived_s = time.monotonic() - began_s
        self._tell(f"{plan.name}: ended with code {exit_code} after {lived_s:.0f} s; it is started again")
        for line in process.log_tail(FAILURE_LOG_LINES):
            self._tell(f"    | {line}")
        return PodEnd(lived_s, was_ready=lived_s > RAN_WELL_S)

    async def _tell_warnings(self, log_watch: LogWatch) -> None:
        """Pass on what it warns of, such as an engine that died."""
        while True:
            await asyncio.sleep(LOG_PERIOD_S)
            for message in log_watch.news():
                self._tell(f"{self._plan.name}: {message}")
