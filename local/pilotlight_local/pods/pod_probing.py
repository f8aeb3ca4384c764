"""Runs the probes of one pod's process until one of them, or the progress deadline, says that it has to end.

`probe_policy` says what an outcome means and when to look again. Must not: end the process, or know what a pod is.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from pilotlight_local.activator.activator import Backend
from pilotlight_local.pods import probe_policy
from pilotlight_local.pods.pod_probe import Probed
from pilotlight_specs import Container, Probe

PAUSE_RESOLUTION_S = 0.001


class PodProbing:
    """The startup probe first, then readiness and liveness side by side."""

    def __init__(
        self,
        container: Container,
        look: Callable[[Probe], Awaitable[Probed]],
        on_readiness: Callable[[bool | None, str], None],
        ready_within_s: float,
        backend: Backend,
    ) -> None:
        """Args:
        on_readiness: told after each look whether requests may come (None: not settled), and why not.
        ready_within_s: a process that was never ready by then has to end.
        backend: once it is suspected, look at once and settle anew; while it can be spared, look often.
        """
        self._container = container
        self._look = look
        self._on_readiness = on_readiness
        self._ready_within_s = ready_within_s
        self._deadline = asyncio.timeout(ready_within_s)
        self._backend = backend

    async def run(self) -> str:
        """Returns why the process has to end; runs until then, or until it is cancelled."""
        try:
            async with self._deadline:
                return await self._watch()
        except TimeoutError:
            return f"was not ready within {self._ready_within_s:.0f} s"

    async def _watch(self) -> str:
        container = self._container
        if container.startup is not None:
            started = await self._settle(container.startup)
            if not started.succeeded:
                return _failure("startup", container.startup, started)
        if container.liveness is None:
            return await self._keep_readiness()
        readiness = asyncio.create_task(self._keep_readiness())
        liveness = asyncio.create_task(self._settle(container.liveness, ends_with=False))
        try:
            await asyncio.wait({readiness, liveness}, return_when=asyncio.FIRST_COMPLETED)
            return (
                _failure("liveness", container.liveness, liveness.result()) if liveness.done() else readiness.result()
            )
        finally:
            for task in (readiness, liveness):
                task.cancel()
            await asyncio.wait({readiness, liveness})

    async def _settle(self, probe: Probe, ends_with: bool | None = None) -> Probed:
        """The look with which `probe` settled: either way, or only as `ends_with`."""
        history = probe_policy.ProbeHistory()
        await asyncio.sleep(probe_policy.first_wait_s(self._container, probe))
        while True:
            probed = await self._look(probe)
            history = probe_policy.count(probe, history, probed.succeeded)
            if history.settled is not None and ends_with in (None, history.settled):
                return probed
            await asyncio.sleep(probe_policy.next_wait_s(self._container, probe, history))

    async def _keep_readiness(self) -> str:
        """Never returns; the type is that of who waits beside it."""
        probe = self._container.readiness
        history = probe_policy.ProbeHistory()
        await asyncio.sleep(probe_policy.first_wait_s(self._container, probe))
        while True:
            probed = await self._look(probe)
            if self._backend.suspected.is_set():
                self._backend.suspected.clear()
                history = probe_policy.ProbeHistory()
            history = probe_policy.count(probe, history, probed.succeeded)
            if history.settled:
                self._deadline.reschedule(None)
            self._on_readiness(history.settled, probed.why_not)
            await self._pause(probe_policy.next_wait_s(self._container, probe, history))

    async def _pause(self, wait_s: float) -> None:
        """Until the next look: shorter where another pod could take what this one does not."""
        now_s = asyncio.get_running_loop().time
        until_s = now_s() + wait_s
        # Less than the clock can tell is nothing.
        while (left_s := until_s - now_s()) > PAUSE_RESOLUTION_S:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, probe_policy.PEERS_PERIOD_S)):
                    await self._backend.suspected.wait()
                    return
            if self._backend.can_be_spared:
                return


def _failure(name: str, probe: Probe, last: Probed) -> str:
    said = f": {last.why_not}" if last.why_not else ""
    often = f" {probe.failure_threshold} times in a row" if probe.failure_threshold > 1 else ""
    return f"failed its {name} probe{often}{said}"
