"""Public traces as ours: Azure Functions 2019 and BurstGPT, read from the files their authors publish.

Azure Functions 2019 (CC-BY; Shahrad et al., ATC'20), one file per day:
    invocations_per_function_md.anon.dNN.csv    HashOwner,HashApp,HashFunction,Trigger,1,...,1440 (counts per minute)
    function_durations_percentiles.anon.dNN.csv HashOwner,HashApp,HashFunction,Average,... (milliseconds)
    A function is an endpoint, its owner the tenant. A minute's invocations get uniform random seconds within it.
BurstGPT: Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type, and since release 2 also Session ID and
    Elapsed time. Requests without response tokens failed and are left out. The trace names two models only, so its
    conversations are dealt to `endpoints` endpoints (Zipf), a session always to one.

Neither knows architectures: each endpoint gets one of `fingerprints` by a hash of its name.
"""

from __future__ import annotations

import csv
import random
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pool_simulator.request_trace import Endpoint, InvalidTrace, Trace, build

_MINUTE_S = 60.0
_DAY_S = 86_400.0
_MAX_DURATION_S = 600.0


def read_azure_functions(
    invocations: Sequence[Path],
    durations: Sequence[Path],
    *,
    fingerprints: int,
    max_endpoints: int,
    seed: int,
    most_per_endpoint: int = 10**9,
    default_duration_s: float = 1.0,
) -> Trace:
    """Days (or spans) in the order of the files. The first `max_endpoints` functions that appear and have at most
    `most_per_endpoint` invocations in each; raises InvalidTrace."""
    chance = random.Random(seed)
    average_s = _azure_durations(durations)
    known: dict[tuple[str, str, str], int] = {}
    endpoints: list[Endpoint] = []
    requests: list[tuple[float, int, float]] = []
    for day, path in enumerate(invocations):
        for owner, app, function, counts in _azure_rows(path):
            if sum(count for _, count in counts) > most_per_endpoint:
                continue
            key = (owner, app, function)
            if key not in known:
                if len(endpoints) >= max_endpoints:
                    continue
                known[key] = len(endpoints)
                name = f"{owner[:8]}/{app[:8]}/{function[:8]}"
                endpoints.append(Endpoint(name, owner[:8], _fingerprint(name, fingerprints)))
            duration_s = average_s.get(key, default_duration_s)
            for minute, count in counts:
                begin_s = day * _DAY_S + minute * _MINUTE_S
                requests.extend((begin_s + chance.random() * _MINUTE_S, known[key], duration_s) for _ in range(count))
    return build(endpoints, requests)


def read_burstgpt(
    path: Path, *, endpoints: int, fingerprints: int, seed: int, days: float, s_per_token: float = 0.02
) -> Trace:
    """The first `days` days. Duration: Elapsed time where the file has it, else response tokens x `s_per_token`."""
    chance = random.Random(seed)
    shares = [1.0 / (rank + 1) for rank in range(endpoints)]
    names = [f"burstgpt-{index}" for index in range(endpoints)]
    sessions: dict[str, int] = {}
    requests: list[tuple[float, int, float]] = []
    with path.open(newline="", encoding="utf-8") as lines:
        for line, row in enumerate(csv.DictReader(lines), start=2):
            try:
                at_s, tokens = float(row["Timestamp"]), int(row["Response tokens"])
                elapsed_s = float(row.get("Elapsed time") or tokens * s_per_token)
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidTrace(f"{path}:{line}: {error!r}; is this a BurstGPT file?") from error
            if at_s >= days * _DAY_S:
                break
            if tokens == 0:
                continue
            session = row.get("Session ID") or f"line {line}"
            if session not in sessions:
                sessions[session] = chance.choices(range(endpoints), shares)[0]
            requests.append((at_s, sessions[session], min(_MAX_DURATION_S, elapsed_s)))
    return build([Endpoint(name, name, _fingerprint(name, fingerprints)) for name in names], requests)


def _azure_rows(path: Path) -> Iterator[tuple[str, str, str, list[tuple[int, int]]]]:
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.reader(lines)
        header = next(rows, [])
        if header[:4] != ["HashOwner", "HashApp", "HashFunction", "Trigger"] or len(header) < 5:
            raise InvalidTrace(f"{path}: not invocations per function: the header is {','.join(header[:6])},…")
        for row in rows:
            yield row[0], row[1], row[2], [(at, int(n)) for at, n in enumerate(row[4:]) if n not in {"", "0"}]


def _azure_durations(paths: Sequence[Path]) -> dict[tuple[str, str, str], float]:
    found: dict[tuple[str, str, str], float] = {}
    for path in paths:
        with path.open(newline="", encoding="utf-8") as lines:
            for line, row in enumerate(csv.DictReader(lines), start=2):
                try:
                    duration_s = max(0.0, float(row["Average"]) / 1000.0)
                    found[(row["HashOwner"], row["HashApp"], row["HashFunction"])] = min(_MAX_DURATION_S, duration_s)
                except (KeyError, TypeError, ValueError) as error:
                    raise InvalidTrace(f"{path}:{line}: {error!r}; expected function durations") from error
    return found


def _fingerprint(name: str, fingerprints: int) -> str:
    return f"architecture-{zlib.crc32(name.encode()) % fingerprints}"
