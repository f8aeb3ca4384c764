"""What must be as it was once the traffic has ended: processes, sockets, descriptors, shared memory, the store."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import psutil

from churn_harness.pool import ChurnPool
from churn_harness.tally import Tally
from pilotlight_store import Store, StoreSettings

_PERIOD_S = 1.0
_SETTLED_S = 15.0
# Connections of the driver's own session, an engine more than at the first look.
_FD_SLACK = 12


class Watch:
    """`run` beside the traffic, until cancelled; then `judge_running`, end the service, `judge_ended`."""

    def __init__(self, pool: ChurnPool, tally: Tally) -> None:
        self._pool, self._tally = pool, tally
        self._fds: list[tuple[int, int]] = []
        self._shared_memory = set(Path("/dev/shm").iterdir())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S)
            with contextlib.suppress(psutil.Error):
                self._fds.append((self._pool.starts, self._pool.watched().num_fds()))

    def judge_running(self) -> None:
        """No lease is held any more, the service still runs."""
        service = self._pool.watched()
        children = service.children(recursive=True)
        zombies = [child.pid for child in children if child.status() == psutil.STATUS_ZOMBIE]
        if zombies:
            self._tally.is_wrong(f"zombies of the service: {zombies}")
        first = [fds for start, fds in self._fds if start == self._pool.starts][int(_SETTLED_S) : int(2 * _SETTLED_S)]
        now = service.num_fds()
        self._tally.invariants["descriptors of the service"] = f"{max(first, default=now)} → {now}"
        if first and now > max(first) + _FD_SLACK:
            self._tally.is_wrong(f"the service has {now} descriptors, after {first[0]} when it was young")

    def judge_ended(self, left: list[int]) -> None:
        """The service has had its SIGTERM. `left`: pids that it has left behind."""
        if left:
            self._tally.is_wrong(f"processes left behind by the service after SIGTERM: {left}")
        sockets = [path.name for path in self._pool.run_dir.iterdir()] if self._pool.run_dir.exists() else []
        if sockets:
            self._tally.is_wrong(f"files left in the run folder: {sockets}")
        self._judge_store()
        memory = [path.name for path in set(Path("/dev/shm").iterdir()) - self._shared_memory]
        temporary = [path for path in (self._pool.folder / "work").rglob("*") if path.is_file()]
        self._tally.invariants |= {
            "processes left": str(len(left)),
            "files left in the run folder": str(len(sockets)),
            "new in /dev/shm": str(len(memory)),
            "files in the work folder": f"{len(temporary)}, {sum(path.stat().st_size for path in temporary)} bytes",
        }

    def _judge_store(self) -> None:
        """What the store has published is whole, though it was killed while it downloaded, and nobody holds it."""
        with Store(StoreSettings(self._pool.store_dir)) as store:
            models = store.list()
            held = [model.manifest.source for model in models if model.holds or model.pinned]
            damaged = [found for model in models for found in store.verify(model.digest)]
        if held or damaged:
            self._tally.is_wrong(f"the store: held by nobody {held}, damaged {damaged}")
        self._tally.invariants["models in the store"] = f"{len(models)}, {len(held)} held, {len(damaged)} damaged"
