"""When each endpoint was first there, also over restarts of the platform: who has a name first keeps it.

Blocking, for as long as a small file takes. Must not: know what a name means.
"""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from pilotlight_local.ingress.routes import EndpointName

_log = logging.getLogger("pilotlight.local")


class CreationTimes:
    """Those of one moment have one time: nobody among them was there first."""

    def __init__(self, path: Path, wall_s: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall_s = wall_s
        self._times: dict[str, float] = {}
        try:
            self._times = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("when endpoints were created is not known any more: %s: %s", path, error)

    def of(self, name: EndpointName) -> float:
        return self._times.get(str(name), 0.0)

    def note(self, names: Iterable[EndpointName]) -> None:
        """These are there now."""
        now_s = self._wall_s()
        new = {str(name): now_s for name in names if str(name) not in self._times}
        if new:
            self._write(self._times | new)

    def forget(self, name: EndpointName) -> None:
        if str(name) in self._times:
            self._write({known: at_s for known, at_s in self._times.items() if known != str(name)})

    def keep(self, names: Iterable[EndpointName]) -> None:
        """No others are there any more."""
        there = {str(name) for name in names}
        if self._times.keys() - there:
            self._write({name: at_s for name, at_s in self._times.items() if name in there})

    def _write(self, times: dict[str, float]) -> None:
        self._times = times
        written = self._path.with_suffix(".new")
        try:
            written.write_bytes(msgspec.json.encode(times))
            written.replace(self._path)
        except OSError as error:
            _log.warning("when endpoints were created is not kept: %s", error)
