"""The life of one pod: mount its models, start its process, probe it, let it finish its requests, end it.

    Mounting -> Starting -> Ready <-> NotReady -> Draining -> Gone
    (any state may go to Gone: the process exits, cannot start, fails a startup or liveness probe, or was asked to stop)

That something has changed is told to the owner, which looks at the pod and decides what it means. Must not: restart
itself, or know the autoscaler.
"""

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import aiohttp

from pilotlight_local.activator.activator import Backend
from pilotlight_local.pods import pod_probe
from pilotlight_local.pods.log_watch import LogWatch
from pilotlight_local.pods.loopback_ports import LoopbackPorts
from pilotlight_local.pods.model_mounts import ModelMounts
from pilotlight_local.pods.pod_command import NoEntrypoint, Placement, leases_engines, pod_command, pool_env
from pilotlight_local.pods.pod_listener import PodListener
from pilotlight_local.pods.pod_logs import prune_logs, start_afresh
from pilotlight_local.pods.pod_probing import PodProbing
from pilotlight_local.pods.process_pod import PodProcess
from pilotlight_local.state_dir import StateDir
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.model_reference import STORE_VARIABLE
from pilotlight_specs import Component, Probe

PodPhase = Literal["Mounting", "Starting", "Ready", "NotReady", "Draining", "Gone"]

FAILURE_LOG_LINES = 20
NEVER_READY_GRACE_S = 2.0
"""Of a pod that no request has reached: it has nothing to finish, whatever the spec gives others."""


@dataclass(frozen=True)
class PodSurroundings:
    """What every pod of the platform shares."""

    state_dir: StateDir
    mounts: ModelMounts
    ports: LoopbackPorts
    session: aiohttp.ClientSession
    python: str
    search_path: str
    pool_url: str | None = None
    """Where predictors lease engines; None: each starts its own."""


@dataclass(frozen=True)
class PodFailure:
    """Why a pod ended that nobody had asked to end."""

    reason: str
    log_lines: tuple[str, ...]
    was_ready: bool
    lost_port: bool = False
    """Another program had taken its port; nothing is wrong with the pod."""


class LivePod:
    """One pod of a revision."""

    def __init__(
        self,
        surroundings: PodSurroundings,
        name: str,
        revision: str,
        component: Component,
        predictor_address: str | None,
        on_change: Callable[[], None],
    ) -> None:
        self._now_s = asyncio.get_running_loop().time
        self.name = name
        self.component = component
        self.phase: PodPhase = "Mounting"
        self.failure: PodFailure | None = None
        self.created_s = self._now_s()
        self.ready_after_s: float | None = None
        self.why_not_ready = ""
        self.process: PodProcess | None = None
        self._revision = revision
        self._predictor_address = predictor_address
        self._around = surroundings
        self._on_change = on_change
        self.backend = Backend(name)
        self._stop = asyncio.Event()
        self._env: dict[str, str] = {}
        self._log_watch: LogWatch | None = None
        self._last_error = ""
        self._grace_s = self._idle_grace_s = float(component.pod.termination_grace_period_s)
        self._task = asyncio.create_task(self._live(), name=f"pod {name}")

    @property
    def log_path(self) -> Path:
        """Where the container's output goes."""
        component = self.component
        folder = self._around.state_dir.component_logs(component.namespace, component.isvc, component.role)
        return folder / f"{self.name}.log"

    @property
    def _scratch(self) -> Path:
        # A deleted endpoint's pod may still drain while one of the same name runs; the port is only one's.
        return self._around.state_dir.scratch(f"{self.name}.{self.backend.port}")

    @property
    def takes_requests(self) -> bool:
        return self.phase == "Ready" and not self.backend.suspected.is_set() and self.counts

    @property
    def counts(self) -> bool:
        """Whether the pod is one of those the autoscaler asked for (not on its way out)."""
        return self.phase not in ("Draining", "Gone") and not self._stop.is_set()

    def mount_progress(self) -> str | None:
        """How far the download of its model is, None when there is none."""
        found = (self._around.mounts.progress(mount.uri) for mount in self.component.pod.mounts)
        return next((progress for progress in found if progress is not None), None)

    def new_errors(self) -> list[str]:
        """What the container logged as errors since the last call, while it runs; its end is told as a failure."""
        return self._read_errors() if self.counts else []

    def _read_errors(self) -> list[str]:
        news = self._log_watch.news() if self._log_watch is not None else []
        self._last_error = news[-1] if news else self._last_error
        return news

    def stop(self, grace_s: float | None = None, idle_grace_s: float | None = None) -> None:
        """Drain, then end: SIGTERM when no request runs, SIGKILL when the grace period of the spec is over, after
        `grace_s` at the latest, and not more than `idle_grace_s` after the last request. Returns at once, see
        `wait_gone`; a later call may shorten what an earlier one gave."""
        self._grace_s = self._grace_s if grace_s is None else min(self._grace_s, grace_s)
        self._idle_grace_s = self._idle_grace_s if idle_grace_s is None else min(self._idle_grace_s, idle_grace_s)
        if self._stop.is_set() and self.process is not None:
            left_s = self._grace_s if self.backend.in_flight else min(self._grace_s, self._idle_grace_s)
            asyncio.get_running_loop().call_later(left_s, self.process.kill)
        self._stop.set()

    async def wait_gone(self) -> None:
        """Returns when no process of the pod is left."""
        await asyncio.wait([self._task])

    def _enter(self, phase: PodPhase) -> None:
        if phase != self.phase:
            self.phase = phase
            self._on_change()

    async def _live(self) -> None:
        try:
            self.backend.port = self._around.ports.take()
            process = await self._unless_stopped(self._launch())
            if process is not None:
                self.process = process
                self._enter("Starting")
                await self._attend(process)
        except (PilotlightError, OSError, TimeoutError, NoEntrypoint) as error:
            self.failure = PodFailure(str(error), (), was_ready=False)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
            if self.backend.port:
                self._around.ports.give_back(self.backend.port)
            self._enter("Gone")

    async def _unless_stopped(self, work: Coroutine[Any, Any, PodProcess]) -> PodProcess | None:
        """The result of `work`, None when the pod is asked to stop before it is there."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            await _cancel(stopping, working)

    async def _launch(self) -> PodProcess:
        pod = self.component.pod
        directories = {mount.mount_path: await self._around.mounts.resolve(mount.uri) for mount in pod.mounts}
        scratch = self._scratch
        for empty_dir in pod.empty_dirs:
            directories[empty_dir.mount_path] = scratch / empty_dir.name
            directories[empty_dir.mount_path].mkdir(parents=True, exist_ok=True)
        working_dir = scratch / "cwd"
        working_dir.mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        prune_logs(self.log_path.parent)
        start_afresh(self.log_path)
        placement = Placement(
            port=self.backend.port,
            python=self._around.python,
            predictor_address=self._predictor_address or "",
            directories={mount_path: str(local) for mount_path, local in directories.items()},
        )
        command = pod_command(self.component, self._revision, placement)
        # A component that is given a model's URI shares the platform's store; the spec's own word wins.
        store = {STORE_VARIABLE: str(self._around.mounts.store)}
        self._env = {"PATH": self._around.search_path, **store, **self._pool_env(), **dict(command.env)}
        self._log_watch = LogWatch(self.log_path, levels=("ERROR", "CRITICAL"))
        return await PodProcess.start(command.argv, self._env, Path(command.working_dir or working_dir), self.log_path)

    def _pool_env(self) -> dict[str, str]:
        """Of the pool, where the component leases from it; the spec's own environment wins."""
        pool_url = self._around.pool_url
        if pool_url is None or not leases_engines(self.component):
            return {}
        return pool_env(self.component, pool_url)

    async def _attend(self, process: PodProcess) -> None:
        exited = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stop.wait())
        listener = self._listener = PodListener(self.backend.port, process.init_pid)
        container = self.component.pod.container
        ready_within_s = self.component.progress_deadline_s - (self._now_s() - self.created_s)
        probing = asyncio.create_task(
            PodProbing(container, self._look, self._on_readiness, ready_within_s, self.backend).run()
        )
        try:
            await asyncio.wait({exited, stopping, probing}, return_when=asyncio.FIRST_COMPLETED)
            was_ready = self.ready_after_s is not None
            if exited.done():
                reason = f"exited with code {exited.result()}" + ("" if was_ready else " before it was ready")
                self._fail(process, reason, was_ready)
                if not was_ready and self.failure is not None and not await asyncio.to_thread(listener.is_own):
                    self.failure = replace(self.failure, lost_port=True)
            elif probing.done():
                self._fail(process, probing.result(), was_ready)
                if self.phase == "Ready":
                    self._enter("NotReady")
                await process.stop(self._grace_s)
            else:
                await _cancel(probing)
                await self._drain(process)
        finally:
            await _cancel(exited, stopping, probing)
            if process.exit_code is None:
                await process.stop(0.0)

    def _fail(self, process: PodProcess, reason: str, was_ready: bool) -> None:
        self._read_errors()
        if self._last_error:
            reason = f"{reason}: {self._last_error}"
        self.failure = PodFailure(reason, tuple(process.log_tail(FAILURE_LOG_LINES)), was_ready)

    async def _drain(self, process: PodProcess) -> None:
        self._enter("Draining")
        deadline_s = self._now_s() + self._grace_s
        idle = asyncio.create_task(self.backend.wait_idle())
        exited = asyncio.create_task(process.wait())
        await asyncio.wait({idle, exited}, timeout=self._grace_s, return_when=asyncio.FIRST_COMPLETED)
        is_idle = idle.done()
        await _cancel(idle, exited)
        left_s = max(0.0, deadline_s - self._now_s())
        if self.ready_after_s is None:
            left_s = min(left_s, NEVER_READY_GRACE_S)
        await process.stop(min(left_s, self._idle_grace_s) if is_idle else left_s)

    async def _look(self, probe: Probe) -> pod_probe.Probed:
        port = self.backend.port
        probed = await pod_probe.look(self._around.session, probe, port, self._env)
        asks_the_port = probe.kind != "exec" or probe is self.component.pod.container.readiness
        if not (probed.succeeded and asks_the_port) or await asyncio.to_thread(self._listener.is_own):
            return probed
        # Whatever was measured before was another's: no request goes there for another probe's sake.
        self.backend.suspected.set()
        self._on_change()
        return pod_probe.Probed(False, f"another program listens on the pod's port {port}")

    def _on_readiness(self, ready: bool | None, why_not: str) -> None:
        if why_not != self.why_not_ready:
            self.why_not_ready = why_not
            self._on_change()
        if ready:
            if self.ready_after_s is None:
                self.ready_after_s = self._now_s() - self.created_s
            self._enter("Ready")
        elif self.phase == "Ready":
            self._enter("NotReady")


async def _cancel(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
