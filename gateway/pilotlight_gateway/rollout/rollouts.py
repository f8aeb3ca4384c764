"""The rollouts of all canaries in the configuration: their shares now, and their state in a file for a restart.

A canary whose route, targets or rollout the configuration changes begins anew; one that is as it was goes on, and what
was taken back stays so. Must not: decide how a rollout goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from pilotlight_gateway.metrics import CANARIES_TAKEN_BACK, CANARY_SHARE
from pilotlight_gateway.rollout.rollout import Rollout, RolloutState
from pilotlight_gateway.routing.route_spec import RouteSpec

FILE_NAME = "rollouts.json"
SAVED_EACH_S = 5.0
_SAVED = msgspec.json.Decoder(dict[str, RolloutState])
_log = logging.getLogger("pilotlight.gateway.rollout")

RouteKey = tuple[str, tuple[str, ...] | None]


class Rollouts:
    """`file`: None keeps nothing. It is read when this is made (blocking), and written between `start` and `close`."""

    def __init__(self, file: Path | None = None, wall_s: Callable[[], float] = time.time) -> None:
        self._file = file
        self._wall_s = wall_s
        self._saved = {} if file is None else _read(file)
        self._rollouts: dict[RouteKey, Rollout] = {}
        self._fingerprints: dict[RouteKey, str] = {}
        self._changed = asyncio.Event()
        self._is_new = False
        self._task: asyncio.Task[None] | None = None

    def apply(self, routes: Iterable[RouteSpec]) -> None:
        before = {self._fingerprints[key]: rollout for key, rollout in self._rollouts.items()}
        self._rollouts, self._fingerprints = {}, {}
        for route in routes:
            if route.canary is None or route.canary.rollout is None:
                continue
            fingerprint, key = _fingerprint(route), (route.name, route.tenants)
            rollout = before.get(fingerprint)
            if rollout is None:
                state = self._saved.pop(fingerprint, None) or RolloutState(self._wall_s())
                rollout = Rollout(route.canary.rollout, state)
            self._rollouts[key], self._fingerprints[key] = rollout, fingerprint
            if route.label:
                CANARY_SHARE.labels(route.label).set(rollout.share)
        self._changed.set()

    def share(self, route: RouteSpec) -> float:
        """Of its canary, in percent."""
        if route.canary is None:
            return 0.0
        if route.canary.percent is not None:
            return route.canary.percent
        rollout = self._rollouts.get((route.name, route.tenants))
        return 0.0 if rollout is None else rollout.share

    def state(self, route: RouteSpec) -> RolloutState | None:
        rollout = self._rollouts.get((route.name, route.tenants))
        return None if rollout is None else rollout.state

    def observe(self, route: RouteSpec, is_canary: bool, failed: bool, first_event_s: float | None) -> None:
        rollout = self._rollouts.get((route.name, route.tenants))
        if rollout is None or route.canary is None or rollout.spec != route.canary.rollout:
            return  # of a configuration that is over
        self._is_new = True
        if not rollout.observe(is_canary, failed, first_event_s, self._wall_s()):
            return
        if rollout.state.taken_back:
            _log.warning("the canary of route %s is taken back: %s", route.name, rollout.state.taken_back)
            CANARIES_TAKEN_BACK.labels(route.label or "other").inc()
        else:
            _log.info("the canary of route %s gets %g %% now", route.name, rollout.share)
        if route.label:
            CANARY_SHARE.labels(route.label).set(rollout.share)
        self._changed.set()

    async def start(self) -> None:
        if self._file is not None:
            self._task = asyncio.create_task(self._run(self._file), name="rollouts")

    async def close(self) -> None:
        if self._task is not None and self._file is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            await asyncio.to_thread(_write, self._file, self._encoded())

    async def _run(self, file: Path) -> None:
        """A new share is written at once, evidence now and then."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVED_EACH_S):
                    await self._changed.wait()
            if self._changed.is_set() or self._is_new:
                self._changed.clear()
                self._is_new = False
                await asyncio.to_thread(_write, file, self._encoded())

    def _encoded(self) -> bytes:
        return msgspec.json.encode({self._fingerprints[key]: each.state for key, each in self._rollouts.items()})


def _fingerprint(route: RouteSpec) -> str:
    meant = msgspec.json.encode((route.name, route.tenants, route.targets, route.canary))
    return hashlib.sha256(meant).hexdigest()[:32]


def _read(file: Path) -> dict[str, RolloutState]:
    try:
        return _SAVED.decode(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        _log.error("the state of rollouts cannot be read, they begin anew: %s", error)
        return {}


def _write(file: Path, content: bytes) -> None:
    new = file.with_suffix(".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)
        new.replace(file)
    except OSError as error:
        _log.error("the state of rollouts cannot be written: %s", error)
