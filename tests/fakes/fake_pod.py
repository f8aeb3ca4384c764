"""A pod of the embedded platform without a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from pilotlight_local.activator.activator import Backend
from pilotlight_local.pods.live_pod import PodFailure
from pilotlight_specs import Component


@dataclass
class FakePod:
    """A pod whose phase the test sets; it ends when it is told to and works on nothing."""

    name: str
    revision: str
    component: Component
    address: str | None
    changed: Callable[[], None]
    phase: str = "Starting"
    failure: PodFailure | None = None
    why_not_ready: str = ""
    ready_after_s: float | None = None
    process: None = None
    log_path: str = ""
    graces: list[tuple[float | None, float | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.created_s = asyncio.get_running_loop().time()
        self.backend = Backend(self.name, 1)

    @property
    def counts(self) -> bool:
        return self.phase not in ("Draining", "Gone")

    @property
    def takes_requests(self) -> bool:
        return self.phase == "Ready" and not self.backend.suspected.is_set()

    def become(self, phase: str, failure: str | None = None) -> None:
        was_ready = self.ready_after_s is not None
        self.phase = phase
        if phase == "Ready":
            self.ready_after_s = 1.0
        if failure is not None:
            self.failure = PodFailure(failure, ("Traceback of a tenant",), was_ready)
        self.changed()

    def stop(self, grace_s: float | None = None, idle_grace_s: float | None = None) -> None:
        self.graces.append((grace_s, idle_grace_s))
        self.become("Draining" if self.backend.in_flight and grace_s != 0.0 else "Gone")

    async def wait_gone(self) -> None:
        while self.phase != "Gone":  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)

    def new_errors(self) -> list[str]:
        if self.component.pod.container.args == ("unreadable",):
            raise PermissionError("its log")
        return []
