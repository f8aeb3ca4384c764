"""When each endpoint was first there, and each name of its models, also over restarts of the platform: who has a name
first keeps it.

Blocking, for as long as a small file takes. Must not: know what a name means.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from pilotlight_local.ingress.routes import EndpointName

_log = logging.getLogger("pilotlight.local")
_OWN = ""
"""Stands for the endpoint's own name, which no model has."""

_Times = Mapping[str, Mapping[str, float]]


class CreationTimes:
    """Those of one moment have one time: nobody among them was there first."""

    def __init__(self, path: Path, wall_s: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall_s = wall_s
        self._times: _Times = {}
        try:
            self._times = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, float]])
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("when endpoints were created is not known any more: %s: %s", path, error)

    def of(self, name: EndpointName) -> float:
        return self._times.get(str(name), {}).get(_OWN, 0.0)

    def note(self, names: Iterable[EndpointName]) -> None:
        """These are there now."""
        now_s = self._wall_s()
        new = {str(name): {_OWN: now_s} for name in names if str(name) not in self._times}
        if new:
            self._write({**self._times, **new})

    def of_models(self, name: EndpointName, models: Sequence[str]) -> tuple[float, ...]:
        """Since when an endpoint that is there has each of these. Those that it comes with are as old as it; another
        one begins now, and what is not among them is forgotten."""
        known = self._times.get(str(name), {})
        since_s = self._wall_s() if len(known) > 1 else self.of(name)
        times = {model: known.get(model, since_s) for model in models}
        if times != {model: at_s for model, at_s in known.items() if model != _OWN}:
            self._write({**self._times, str(name): {_OWN: self.of(name), **times}})
        return tuple(times[model] for model in models)

    def forget(self, name: EndpointName) -> None:
        if str(name) in self._times:
            self._write({known: times for known, times in self._times.items() if known != str(name)})

    def keep(self, names: Iterable[EndpointName]) -> None:
        """No others are there any more."""
        there = {str(name) for name in names}
        if self._times.keys() - there:
            self._write({name: times for name, times in self._times.items() if name in there})

    def _write(self, times: _Times) -> None:
        self._times = times
        written = self._path.with_suffix(".new")
        try:
            written.write_bytes(msgspec.json.encode(times))
            written.replace(self._path)
        except OSError as error:
            _log.warning("when endpoints were created is not kept: %s", error)
