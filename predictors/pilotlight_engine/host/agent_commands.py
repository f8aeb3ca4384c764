"""What the engine thread does with the agent's commands: grants and revokes, swaps, sleep.

    booted ── Grant ──▶ granted ── Joined ──▶ held ── Revoke, Swap, Grant ──▶ granted to the next, or to nobody

A tenant's keys, values and metrics are gone before the next tenant is let in, but for tenants whose leases bring an
adapter: those share the engine, keys and values are found under each one's adapter alone, and nobody is told metrics
that are not all its own. Whatever it raises ends the process;
nothing that it holds may answer again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Protocol

from pilotlight_engine.errors import SwapBroken, SwapNotPossible
from pilotlight_engine.host.host_sockets import HostSockets
from pilotlight_engine.host.lease_service import BatchEngine, LeaseService
from pilotlight_protocol.engine_frames import (
    Adapter,
    AgentFrame,
    Check,
    Checked,
    Examine,
    Examined,
    Grant,
    Granted,
    GrantRefused,
    Rejected,
    Revoke,
    Revoked,
    Sleep,
    Slept,
    Swap,
    SwapCheck,
    SwapFailed,
    Swapped,
    SwapRefused,
    Wake,
    Woken,
)
from pilotlight_protocol.errors import NotSupported, PilotlightError
from pilotlight_protocol.swap_proofs import EngineState


class SwapReport(Protocol):
    @property
    def phases_s(self) -> dict[str, float]: ...


class HostedEngine(BatchEngine, Protocol):
    """The engine as its agent commands it: `VllmEngine`, or a fake of a test."""

    swap_check: SwapCheck

    @property
    def can_sleep(self) -> bool: ...
    def swap(self, model_dir: Path, model_name: str, loras: Sequence[tuple[str, str]]) -> SwapReport: ...
    def examine(self) -> EngineState: ...
    def forget(self) -> None: ...
    def load_adapter(self, adapter: Adapter, in_use: Container[str]) -> None: ...
    def renew_metrics(self) -> None: ...
    def rename(self, model_name: str) -> None: ...
    def sleep(self, level: int) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


class AgentCommands:
    def __init__(
        self,
        sockets: HostSockets,
        engine: HostedEngine,
        leases: LeaseService,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sockets = sockets
        self._engine = engine
        self._leases = leases
        self._clock = clock
        self._tenants: set[str] = set()

    def obey(self, frame: AgentFrame) -> None:
        match frame:
            case Grant():
                self._grant(frame)
            case Revoke(lease_id, reason):
                self._leases.end_lease(lease_id, reason)
                self._leases.tell(Revoked(lease_id))
            case Swap():
                self._swap(frame)
            case Sleep(level):
                self._sleep(level)
            case Wake():
                self._wake()
            case Check(call):
                self._leases.tell(Checked(call))
            case Examine():
                self._examine()
            case _:
                self._leases.tell(Rejected(type(frame).__name__, 400, "this frame makes no sense to a running host"))

    def _grant(self, grant: Grant) -> None:
        if not grant.beside:
            self._leases.end_leases("the engine was given to another lease")
        elif not self._may_be_beside(grant):
            self._leases.tell(Rejected("Grant", 409, "no lease is granted beside another tenant's"))
            return
        others = self._sockets.grants.values()
        if grant.adapter is not None:
            in_use = {other.adapter.name for other in others if other.adapter is not None}
            try:
                self._engine.load_adapter(grant.adapter, in_use)
            except PilotlightError as error:
                self._leases.tell(GrantRefused(grant.lease_id, error.message, error.http_status))
                return
        if not others and self._tenants - {grant.tenant}:
            self._start_anew()
        if grant.adapter is None and grant.model_name not in ("", self._leases.model_name):
            self._leases.model_name = grant.model_name
            self._engine.rename(grant.model_name)
        self._tenants.add(grant.tenant)
        self._sockets.tells_metrics = len(self._tenants) < 2
        self._sockets.grants = {**self._sockets.grants, grant.lease_id: grant}
        self._leases.tell(Granted(grant.lease_id))

    def _may_be_beside(self, grant: Grant) -> bool:
        others = self._sockets.grants.values()
        apart = grant.adapter is not None and all(other.adapter is not None for other in others)
        return apart or all(other.tenant == grant.tenant for other in others)

    def _start_anew(self) -> None:
        while self._engine.has_work():
            self._leases.step()
        self._engine.forget()
        self._engine.renew_metrics()
        self._tenants.clear()

    def _swap(self, swap: Swap) -> None:
        began_s = self._clock()
        self._leases.end_leases("the engine was given another model")
        drain_s = round(self._clock() - began_s, 6)
        try:
            if self._leases.asleep:
                self._wake_up()
            report = self._engine.swap(Path(swap.model_dir), swap.model_name, swap.loras)
        except SwapNotPossible as error:
            self._leases.tell(SwapRefused(swap.generation, error.message))
            return
        except SwapBroken as error:
            self._leases.tell(SwapFailed(swap.generation, error.message))
            raise
        self._leases.model_name = swap.model_name
        self._tenants.clear()
        phases_s, info = {"drain": drain_s, **report.phases_s}, self._leases.describe()
        self._leases.tell(Swapped(swap.generation, phases_s, info, self._engine.swap_check))

    def _examine(self) -> None:
        if self._sockets.grants or self._engine.has_work():
            self._leases.tell(Rejected("Examine", 409, "an engine that is leased is not examined"))
            return
        self._leases.tell(Examined(self._engine.examine()))

    def _sleep(self, level: int) -> None:
        if not self._engine.can_sleep:
            message = "this engine cannot sleep: it needs CUDA and the engine argument enable_sleep_mode"
            self._leases.tell(Rejected("Sleep", NotSupported.http_status, message))
            return
        if not self._leases.asleep:
            self._leases.end_leases("the engine was put to sleep")
            self._engine.sleep(level)
            self._leases.asleep = True
        self._leases.tell(Slept())

    def _wake(self) -> None:
        if not self._engine.can_sleep:
            self._leases.tell(Rejected("Wake", NotSupported.http_status, "this engine cannot sleep, so it is awake"))
            return
        if self._leases.asleep:
            self._wake_up()
        self._leases.tell(Woken())

    def _wake_up(self) -> None:
        self._engine.wake()
        self._leases.asleep = False
