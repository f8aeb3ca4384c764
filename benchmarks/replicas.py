"""Time to the first token of the quickstart under load, with several predictor pods per engine slot.

`replicas.py [REPLICAS...]`: for each number of predictor pods, 200 clients stream one chat after another through
`pilotlight up`, a tenth of them hangs up mid-stream. Refusals (503) count apart: admission says so at once, and the
client comes again after what Retry-After says.
"""

import asyncio
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from endpoints_at_zero import is_healthy
from rich.console import Console
from rich.table import Table

GOAL_RATIO = 3.0
STREAMS = 200
RUN_S = 60.0
WARM_S = 15.0
REQUEST_DEADLINE_S = 120.0
PLATFORM_DEADLINE_S = 60.0
HANGS_UP = 0.1
QUICKSTART = Path(__file__).parents[1] / "inferenceservices" / "quickstart.yaml"


@dataclass
class Seen:
    ttft_s: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


async def one_chat(port: int, rng: random.Random, number: int) -> tuple[str, float]:
    """(what became of it, time to its first token)."""
    payload = {
        "model": "quickstart",
        "messages": [{"role": "user", "content": f"Tell me about number {number}, please."}],
        "stream": True,
        "max_tokens": rng.randint(16, 64),
        "temperature": 0,
    }
    body = json.dumps(payload).encode()
    head = (
        "POST /serving/default/quickstart/openai/v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    hangs_up = rng.random() < HANGS_UP
    began_s = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ttft_s = 0.0
    try:
        writer.write(head.encode() + body)
        status = int((await reader.readline()).split()[1])
        if status == 503:
            answer = await reader.read()
            wait_s = next((float(line.split(b":")[1]) for line in answer.lower().split(b"\r\n")
                           if line.startswith(b"retry-after:")), 1.0)  # fmt: skip
            await asyncio.sleep(min(wait_s, 5.0) * (0.5 + rng.random()))
            return "refused (503)", 0.0
        if status != 200:
            return f"status {status}", 0.0
        events = 0
        async for line in reader:
            if line.startswith(b"data: [DONE]"):
                return "done", ttft_s
            if line.startswith(b"data:") and b'"content"' in line:
                events += 1
                ttft_s = ttft_s or time.perf_counter() - began_s
                if hangs_up and events > 3:
                    return "hung up", ttft_s
        return "cut", ttft_s
    finally:
        writer.close()


async def client(port: int, seed: int, until_s: float, counted_from_s: float, seen: Seen) -> None:
    rng = random.Random(seed)
    while time.perf_counter() < until_s:
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(REQUEST_DEADLINE_S):
                what, ttft_s = await one_chat(port, rng, seed)
        except (OSError, TimeoutError) as error:
            what, ttft_s = type(error).__name__, 0.0
        if began_s < counted_from_s:
            continue
        seen.counts[what] += 1
        if ttft_s:
            seen.ttft_s.append(ttft_s)


async def load(port: int) -> Seen:
    seen, now_s = Seen(), time.perf_counter()
    await asyncio.gather(*(client(port, seed, now_s + WARM_S + RUN_S, now_s + WARM_S, seen) for seed in range(STREAMS)))
    return seen


def measure(replicas: int, folder: Path) -> Seen:
    spec = yaml.safe_load(QUICKSTART.read_text())
    spec["spec"]["predictor"].update(minReplicas=replicas, maxReplicas=replicas)
    spec["spec"]["transformer"].update(minReplicas=1)
    (folder / "quickstart.yaml").write_text(yaml.safe_dump(spec))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    argv = [sys.executable, "-m", "pilotlight_local", "up", str(folder / "quickstart.yaml"), "--port", str(port)]
    with (folder / "up.log").open("wb") as log:
        platform = subprocess.Popen([*argv, "--state-dir", str(folder / "state")], stdout=log, stderr=log)
    try:
        until_s = time.monotonic() + PLATFORM_DEADLINE_S
        while not is_healthy(port):
            if time.monotonic() > until_s or platform.poll() is not None:
                raise SystemExit(f"the platform did not come up: {folder / 'up.log'}")
            time.sleep(0.1)
        what, _ = asyncio.run(one_chat(port, random.Random(1), 0))
        if what not in {"done", "hung up"}:
            raise SystemExit(f"the first request: {what}")
        return asyncio.run(load(port))
    finally:
        platform.terminate()
        platform.wait(PLATFORM_DEADLINE_S)


def main() -> None:
    table = Table(title=f"{STREAMS} clients, {RUN_S:.0f} s, one slot; goal: p99 within {GOAL_RATIO:.0f}x of p50")
    for name in ("predictor pods", "TTFT p50", "p99", "p99 / p50", "what became of the requests"):
        table.add_column(name, justify="left" if name.startswith("what") else "right")
    for replicas in [int(text) for text in sys.argv[1:]] or [1, 4]:
        with tempfile.TemporaryDirectory() as folder:
            seen = measure(replicas, Path(folder))
        ranked = sorted(seen.ttft_s)
        if not ranked:
            raise SystemExit(f"no first token at all: {dict(seen.counts)}")
        p50_s, p99_s = ranked[len(ranked) // 2], ranked[int(len(ranked) * 0.99)]
        counts = ", ".join(f"{count} {what}" for what, count in seen.counts.most_common())
        table.add_row(str(replicas), f"{p50_s:.2f} s", f"{p99_s:.2f} s", f"{p99_s / p50_s:.1f}", counts)
    Console().print(table)


if __name__ == "__main__":
    main()
