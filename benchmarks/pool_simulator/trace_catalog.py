"""The public traces of this benchmark: which files of a folder they are, and which part of each is replayed.

They are not in the repository. Where one is huge a part is taken, by fixed rules and a fixed seed, so that a run takes
seconds; endpoints that are never at zero are left out everywhere, since no policy differs on them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pool_simulator import public_traces, servegen, synthetic
from pool_simulator.request_trace import Trace, build

_SEED = 1
_ARCHITECTURES = 5
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class PublicTrace:
    """`files`: below the folder of traces. `part`: what is replayed, for a reader; of its endpoints `endpoints`, for
    `hours`, on `slots`. `crowd_hours`: the same for tenants per slot, where all of its endpoints count."""

    name: str
    files: tuple[str, ...]
    part: str
    endpoints: int
    hours: float
    slots: int
    crowd_hours: float
    read: Callable[[Sequence[Path]], Trace]

    def missing(self, folder: Path) -> list[Path]:
        return [folder / file for file in self.files if not (folder / file).is_file()]

    def load(self, folder: Path) -> Trace:
        return self.read([folder / file for file in self.files])


def some_endpoints(trace: Trace, count: int) -> Trace:
    """The requests of `count` endpoints, drawn by a fixed seed; fewer are a part of more."""
    drawn = list(range(len(trace.endpoints)))
    random.Random(_SEED).shuffle(drawn)
    index = {old: new for new, old in enumerate(drawn[:count])}
    rows = zip(trace.arrivals_s, trace.endpoint_of, trace.durations_s, strict=True)
    requests = [(at_s, index[of], duration_s) for at_s, of, duration_s in rows if of in index]
    return build([trace.endpoints[old] for old in index], requests)


def _servegen(files: Sequence[Path]) -> Trace:
    return servegen.read_servegen(files[0], end_s=_DAY_S, most_per_client=800, mean_work_s=4.0, seed=_SEED)


def _azure_functions(files: Sequence[Path]) -> Trace:
    return public_traces.read_azure_functions(
        files[:1], files[1:], fingerprints=_ARCHITECTURES, max_endpoints=10**6, seed=_SEED, most_per_endpoint=480
    )


def _azure_llm(files: Sequence[Path]) -> Trace:
    return public_traces.read_azure_llm(files, endpoints=200, most_per_endpoint=60, seed=_SEED)


def made_up() -> Trace:
    """Where no public trace is there, and for tests: half a day of twenty endpoints."""
    spec = synthetic.SyntheticSpec(endpoints=20, days=0.5, requests=1000, fingerprints=2, seed=_SEED)
    return synthetic.generate(spec)


PUBLIC = (
    PublicTrace(
        "servegen",
        ("servegen.tar.xz",),
        "from the first day, all models, clients with at most 800 requests a day, work of 4 s in the mean",
        endpoints=40,
        hours=12.0,
        slots=4,
        crowd_hours=8.0,
        read=_servegen,
    ),
    PublicTrace(
        "azure-functions-2019",
        tuple(f"azure-functions-sampled/azure2019_500_{kind}.csv" for kind in ("invocations", "durations")),
        f"functions with at most one invocation a minute, {_ARCHITECTURES} architectures",
        endpoints=50,
        hours=4.0,
        slots=8,
        crowd_hours=2.0,
        read=_azure_functions,
    ),
    PublicTrace(
        "azure-llm-2023",
        ("azure-llm-2023/code.csv", "azure-llm-2023/conv.csv"),
        "both services, each dealt to 200 tenants (Zipf), those with at most one request a minute",
        endpoints=60,
        hours=1.0,
        slots=6,
        crowd_hours=1.0,
        read=_azure_llm,
    ),
)
