"""The tasks that run what is kept, each at its turn, and their end; of the gateways of one folder one runs them.

It must not know what is kept, or what becomes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from pilotlight_gateway.jobs.job_queue import AtOnce, JobQueue
from pilotlight_protocol.errors import PilotlightError, Unavailable

LOOK_S = 10.0
"""How often deadlines are looked at."""

OWN_S = 1.0


class Kept(Protocol):
    """What is kept, and how one of it is run."""

    async def own(self) -> bool:
        """Whether this process is the one that runs it. Raises Unavailable."""
        ...

    async def look_through(self, now_s: float) -> None:
        """Take up what an earlier process left and another one added; end what is too late."""
        ...

    async def run(self, id_: str) -> None: ...


class KeptWork:
    """Between `start` and `close`. `name`: of what is run, for the tasks and the log."""

    def __init__(
        self,
        name: str,
        kept: Kept,
        at_once: Callable[[], AtOnce],
        is_draining: Callable[[], bool],
        wall_s: Callable[[], float],
    ) -> None:
        self.queue = JobQueue()
        self._name = name
        self._kept = kept
        self._at_once = at_once
        self._is_draining = is_draining
        self._wall_s = wall_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._more = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._log = logging.getLogger(f"pilotlight.gateway.{name}")

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look(), name=self._name)

    def add(self, tenant: str, id_: str) -> None:
        self.queue.put(tenant, id_)
        self._more.set()

    def runs(self, id_: str) -> bool:
        return id_ in self._tasks

    def cancel(self, id_: str) -> None:
        """Where it runs."""
        task = self._tasks.get(id_)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """What runs is taken up by the next process."""
        tasks = [*self._tasks.values(), *([] if self._looking is None else [self._looking])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _look(self) -> None:
        while not await self._owns():  # noqa: ASYNC110 - it is another process that ends
            await asyncio.sleep(OWN_S)
        looked_s = float("-inf")
        while True:
            self._more.clear()
            try:
                if self._wall_s() - looked_s > LOOK_S:
                    looked_s = self._wall_s()
                    await self._kept.look_through(looked_s)
            except PilotlightError as error:
                self._log.error("%s (%r)", error.message, error.__cause__)
            except Exception:
                self._log.exception("what is kept could not be looked through")
            # What has not begun when the gateway ends is the next process's.
            while not self._is_draining() and (found := self.queue.next(self._at_once(), self._wall_s())) is not None:
                tenant, id_ = found
                self._tasks[id_] = asyncio.create_task(self._run(tenant, id_), name=f"{self._name} {id_}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._more.wait()

    async def _owns(self) -> bool:
        try:
            return await self._kept.own()
        except Unavailable as error:
            self._log.error("%s (%r)", error.message, error.__cause__)
            return False

    def _pause_s(self) -> float:
        later = self.queue.next_at_s()
        return LOOK_S if later is None else max(0.05, min(LOOK_S, later - self._wall_s()))

    async def _run(self, tenant: str, id_: str) -> None:
        try:
            await self._kept.run(id_)
        except Unavailable as error:
            # It is looked through again in a while.
            self._log.error("%s: %s (%r)", id_, error.message, error.__cause__)
        except Exception:
            self._log.exception("%s failed", id_)
        finally:
            self._tasks.pop(id_, None)
            self.queue.left(tenant)
            self._more.set()
