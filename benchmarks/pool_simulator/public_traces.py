"""Azure's public traces as ours, read from the files their authors publish (AzurePublicDataset, CC-BY 4.0).

Functions 2019 (Shahrad et al., ATC'20), one file per day or span:
    invocations   HashOwner,HashApp,HashFunction,Trigger,1,...,1440 (counts per minute)
    durations     HashOwner,HashApp,HashFunction,Average,... (milliseconds)
    A function is an endpoint, its owner the tenant. A minute's invocations get uniform random seconds within it.
    Neither architectures nor sizes are known: each endpoint gets one of `fingerprints` by a hash of its name.
LLM inference 2023: TIMESTAMP,ContextTokens,GeneratedTokens, a file per service. It names no tenants, so a service's
    requests are dealt to endpoints (Zipf), a tenant each; the service is the architecture.
"""

from __future__ import annotations

import csv
import random
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
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


def read_azure_llm(
    services: Sequence[Path], *, endpoints: int, most_per_endpoint: int, seed: int, s_per_token: float = 0.02
) -> Trace:
    """Each service's requests dealt to `endpoints` endpoints, of which those with at most `most_per_endpoint` are kept:
    the others are never at zero. Duration: generated tokens x `s_per_token`. Raises InvalidTrace."""
    chance = random.Random(seed)
    shares = [1.0 / (rank + 1) for rank in range(endpoints)]
    kept: list[Endpoint] = []
    requests: list[tuple[float, int, float]] = []
    for path in services:
        dealt: list[list[tuple[float, float]]] = [[] for _ in range(endpoints)]
        for at_s, tokens in _azure_llm_rows(path):
            duration_s = min(_MAX_DURATION_S, tokens * s_per_token)
            dealt[chance.choices(range(endpoints), shares)[0]].append((at_s, duration_s))
        for rank, own in enumerate(dealt):
            if 0 < len(own) <= most_per_endpoint:
                requests.extend((at_s, len(kept), duration_s) for at_s, duration_s in own)
                name = f"{path.stem}-{rank}"
                kept.append(Endpoint(name, name, path.stem))
    return build(kept, requests)


def _azure_llm_rows(path: Path) -> Iterator[tuple[float, int]]:
    with path.open(newline="", encoding="utf-8") as lines:
        for line, row in enumerate(csv.DictReader(lines), start=2):
            try:
                # Seven digits behind the point, of which Python reads six.
                at = datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC)
                yield at.timestamp(), int(row["GeneratedTokens"])
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidTrace(f"{path}:{line}: {error!r}; is this Azure's trace of LLM inference?") from error


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
