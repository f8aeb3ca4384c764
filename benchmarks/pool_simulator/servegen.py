"""ServeGen's production traces (arXiv 2505.09999, Apache-2.0) as ours: each client of a model is an endpoint of a
tenant of its own, and the model is its architecture.

The archive has a folder per model with a file per client, one line per ten minutes: start_s, requests/s, CV, family
(Gamma or Weibull) and its two parameters (shape, scale) of the seconds between arrivals. Arrivals are drawn from them.
A client's bins before its first and after its last traffic are not idleness, they are left out.
"""

from __future__ import annotations

import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pool_simulator.request_trace import Endpoint, InvalidTrace, Trace, build

_BIN_S = 600.0


def read_servegen(archive: Path, *, end_s: float, most_per_client: float, mean_work_s: float, seed: int) -> Trace:
    """Clients with at most `most_per_client` requests until `end_s`: others are never at zero. Raises InvalidTrace."""
    chance = random.Random(seed)
    endpoints: list[Endpoint] = []
    requests: list[tuple[float, int, float]] = []
    for model, client, text in sorted(_clients(archive)):
        name = f"{model}/{client}"
        bins = [one for one in _bins(name, text) if one.begin_s < end_s]
        if not 1.0 <= sum(one.per_s * _BIN_S for one in bins) <= most_per_client:
            continue
        index = len(endpoints)
        endpoints.append(Endpoint(name, name, model))
        requests.extend((at_s, index, chance.expovariate(1 / mean_work_s)) for at_s in _arrivals(bins, chance))
    return build(endpoints, requests)


def _clients(archive: Path) -> Iterator[tuple[str, str, str]]:
    """(model, client, lines)."""
    try:
        with tarfile.open(archive) as files:
            for member in files:
                path = PurePosixPath(member.name)
                if path.name.endswith("-trace.csv") and (file := files.extractfile(member)) is not None:
                    yield path.parent.name, path.stem.removesuffix("-trace"), file.read().decode()
    except tarfile.TarError as error:
        raise InvalidTrace(f"{archive}: {error}; expected ServeGen's folders in one archive") from error


@dataclass(frozen=True, slots=True)
class _Bin:
    begin_s: float
    per_s: float
    family: str
    shape: float
    scale: float


def _bins(name: str, text: str) -> Iterator[_Bin]:
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            begin, rate, _, family, shape, scale = line.split(",")
            if float(rate) > 0.0:
                yield _Bin(float(begin), float(rate), family, float(shape), float(scale))
        except ValueError as error:
            raise InvalidTrace(f"{name}:{number}: {error!r}; is this a ServeGen trace?") from error


def _arrivals(bins: list[_Bin], chance: random.Random) -> Iterator[float]:
    """As many as the rate says. The gaps are those within bursts: a bin filled with them has up to ten times more."""
    for one in bins:
        expected = one.per_s * _BIN_S
        gaps_s = [_gap_s(one, chance) for _ in range(int(expected + chance.random()))]
        # A burst begins anywhere where the bin still holds it; one longer than the bin is squeezed into it.
        room_s = _BIN_S - sum(gaps_s)
        squeezed = min(1.0, _BIN_S / max(_BIN_S, sum(gaps_s)))
        at_s = one.begin_s + chance.random() * max(0.0, room_s)
        for gap_s in gaps_s:
            yield at_s
            at_s += gap_s * squeezed


def _gap_s(one: _Bin, chance: random.Random) -> float:
    if one.family == "Gamma":
        return chance.gammavariate(one.shape, one.scale)
    return chance.weibullvariate(one.scale, one.shape)
