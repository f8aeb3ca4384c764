"""A request trace in memory, and the project's own trace file.

The file is CSV with a header, one line per request, in any order:

    timestamp_s,endpoint,tenant,duration_s[,fingerprint]
    0.512,support-bot,acme,3.2,llama-8b-awq

`timestamp_s`: arrival, seconds since the trace began. `duration_s`: time at a warm engine (prefill and decode).
`fingerprint`: architecture of the endpoint's model, the first line of an endpoint counts; absent: one for all.
"""

from __future__ import annotations

import bisect
import csv
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Endpoint:
    name: str
    tenant: str
    fingerprint: str


@dataclass(frozen=True)
class Trace:
    """Columns of equal length, by rising time: `arrivals_s`, `endpoint_of` (index into `endpoints`), `durations_s`."""

    endpoints: tuple[Endpoint, ...]
    arrivals_s: array[float]
    endpoint_of: array[int]
    durations_s: array[float]

    @property
    def horizon_s(self) -> float:
        """The trace ends with its last arrival; slot-seconds are counted until then for every policy."""
        return self.arrivals_s[-1] if self.arrivals_s else 0.0

    def until(self, end_s: float) -> Trace:
        """The requests before `end_s`."""
        count = bisect.bisect_left(self.arrivals_s, end_s)
        return Trace(self.endpoints, self.arrivals_s[:count], self.endpoint_of[:count], self.durations_s[:count])


class InvalidTrace(ValueError):
    """The file is not a trace; the message names file, line and what is expected."""


def build(endpoints: Sequence[Endpoint], requests: Iterable[tuple[float, int, float]]) -> Trace:
    """A trace from (arrival_s, endpoint index, duration_s) in any order; times are shifted so that it begins at 0."""
    rows = sorted(requests)
    begin_s = rows[0][0] if rows else 0.0
    return Trace(
        tuple(endpoints),
        array("d", (row[0] - begin_s for row in rows)),
        array("l", (row[1] for row in rows)),
        array("d", (row[2] for row in rows)),
    )


def read_csv(path: Path) -> Trace:
    """Read the project's own format; raises InvalidTrace."""
    known: dict[str, int] = {}
    endpoints: list[Endpoint] = []
    requests: list[tuple[float, int, float]] = []
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            try:
                name, arrival_s, duration_s = row["endpoint"], float(row["timestamp_s"]), float(row["duration_s"])
                if name not in known:
                    known[name] = len(endpoints)
                    endpoints.append(Endpoint(name, row["tenant"], row.get("fingerprint") or "one"))
            except (KeyError, TypeError, ValueError) as error:
                line = len(requests) + 2
                raise InvalidTrace(
                    f"{path}:{line}: {error!r}; expected timestamp_s,endpoint,tenant,duration_s[,fingerprint]"
                ) from error
            requests.append((arrival_s, known[name], duration_s))
    return build(endpoints, requests)


def write_csv(trace: Trace, path: Path) -> None:
    """Write the project's own format."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp_s", "endpoint", "tenant", "duration_s", "fingerprint"])
        for arrival_s, index, duration_s in zip(trace.arrivals_s, trace.endpoint_of, trace.durations_s, strict=True):
            at = trace.endpoints[index]
            writer.writerow([f"{arrival_s:.3f}", at.name, at.tenant, f"{duration_s:.3f}", at.fingerprint])
