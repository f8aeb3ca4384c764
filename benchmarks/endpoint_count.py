"""What the number of endpoints costs the gateway: start, memory, GET /v1/models, a request, and news of a new endpoint.

python benchmarks/endpoint_count.py [--counts 10,100,1000]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fakes"))

from many_endpoints import COMMON, ManyEndpoints, chat, endpoint, many_endpoints
from processes import cpu_seconds

ROUNDS = 50


def taken(many: ManyEndpoints, once: Callable[[], object]) -> str:
    """Median milliseconds at the client, and the gateway's of CPU for one: those hold on a busy machine."""
    gateway, took_ms = psutil.Process(many.gateway.process.pid), []
    before_s = cpu_seconds(gateway)
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        once()
        took_ms.append((time.perf_counter() - started_s) * 1000)
    return f"{statistics.median(took_ms):.1f} / {(cpu_seconds(gateway) - before_s) / ROUNDS * 1000:.1f}"


def until_routable_ms(many: ManyEndpoints) -> float:
    """From the platform's knowing it to the first answer, asked again and again."""
    took_ms = []
    with many.client(many.keys[3]) as client:
        for number in range(ROUNDS):
            newcomer = endpoint(many.url, 3, f"newcomer-{number}")
            started_s = time.perf_counter()
            many.platform.tell([newcomer])
            while chat(client, newcomer.name).status_code != 200:
                pass
            took_ms.append((time.perf_counter() - started_s) * 1000)
            many.platform.remove(newcomer.namespace, newcomer.name)
    return statistics.median(took_ms)


def measure(count: int) -> str:
    with (
        tempfile.TemporaryDirectory() as folder,
        many_endpoints(Path(folder), count) as many,
        many.client(many.keys[0]) as own,
        many.client(many.everybodys) as all_of_them,
    ):
        chat(own, COMMON)
        cells = [
            f"{count:,}",
            f"{many.ready_s:.2f}",
            f"{psutil.Process(many.gateway.process.pid).memory_info().rss / 1e6:.0f}",
            taken(many, lambda: own.get("/v1/models")),
            taken(many, lambda: all_of_them.get("/v1/models")),
            taken(many, lambda: chat(own, COMMON)),
            f"{until_routable_ms(many):.1f}",
        ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="10,100,1000")
    counts = [int(count) for count in parser.parse_args().counts.split(",")]
    print(
        "| endpoints | ready s | RSS MB | /v1/models of a tenth of them, ms / CPU ms | of all of them, ms / CPU ms "
        "| a request, ms / CPU ms | until a new one answers, ms |"
    )
    print("|---|---|---|---|---|---|---|")
    for count in counts:
        print(measure(count), flush=True)


if __name__ == "__main__":
    main()
