"""How long other tenants' streams stand still while the gateway loads a large tokenizer it has not seen.

    python benchmarks/text_loading.py [--tokens 128000] [--loads 5]

One gateway before a canned backend: 8 streams pass it, an event every 5 ms, while endpoints with a tokenizer of 128,000
tokens each (a byte-level BPE of random merges, another one each time) are asked for the first time. Told are the gaps
between two events of a stream, without and with those loads, and how long the first answer of such an endpoint takes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
from processes import free_port, server
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry, PodsAddress, TextFiles
from pilotlight_protocol.leases import LeaseRequest

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "benchmarks" / "out" / "logs"
STREAMS, INTERVAL_MS = 8, 5
QUIET_S = 5.0


def large_tokenizer(tokens: int, seed: int) -> str:
    """A tokenizer.json of the size of Llama 3's."""
    dice = random.Random(seed)
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: place for place, word in enumerate(words)}
    merges: list[tuple[str, str]] = []
    while len(words) < tokens:
        first, second = dice.choice(words), dice.choice(words)
        word = first + second
        if len(word) <= 16 and word not in vocabulary:
            vocabulary[word] = len(words)
            words.append(word)
            merges.append((first, second))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def endpoints(folder: Path, backend_port: int, tokens: int, loads: int) -> Iterator[EndpointEntry]:
    pods = PodsAddress(f"http://127.0.0.1:{backend_port}", "streams.team.localhost")
    yield EndpointEntry("team", "streams", ("streams",), "1", pods, pods_ready=1)
    for number in range(loads):
        model = folder / f"large-{number}"
        model.mkdir()
        (model / "tokenizer.json").write_text(large_tokenizer(tokens, number))
        lease = LeaseRequest(model=model.as_uri(), model_name="m", tenant="team")
        yield EndpointEntry("team", model.name, (model.name,), "1", pods, lease=lease, text=TextFiles(model.as_uri()))


async def stream_gaps(client: httpx.AsyncClient, gaps_ms: list[float], until: asyncio.Event) -> None:
    body = {"model": "streams", "stream": True, "max_tokens": 100, "messages": [{"role": "user", "content": "go on"}]}
    while not until.is_set():
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            last_s = None
            async for piece in answer.aiter_raw():
                now_s = time.perf_counter()
                if last_s is not None and piece:
                    gaps_ms.append((now_s - last_s) * 1000)
                last_s = now_s


async def measure(base_url: str, loads: int) -> tuple[list[float], list[float], list[float]]:
    """Gaps without loads and with them, and the seconds of first answers."""
    quiet_ms: list[float] = []
    busy_ms: list[float] = []
    first_s: list[float] = []
    limits = httpx.Limits(max_connections=STREAMS + 1)
    async with httpx.AsyncClient(base_url=base_url, timeout=60.0, limits=limits) as client:
        for gaps_ms, asked in ((quiet_ms, 0), (busy_ms, loads)):
            until = asyncio.Event()
            streams = [asyncio.create_task(stream_gaps(client, gaps_ms, until)) for _ in range(STREAMS)]
            await asyncio.sleep(1.0)
            for number in range(asked):
                started_s = time.perf_counter()
                body = {"model": f"large-{number}", "prompt": "hello"}
                (await client.post("/v1/tokenize", json=body)).raise_for_status()
                first_s.append(time.perf_counter() - started_s)
                await asyncio.sleep(0.2)
            if not asked:
                await asyncio.sleep(QUIET_S)
            until.set()
            await asyncio.gather(*streams)
    return quiet_ms, busy_ms, first_s


def told(name: str, gaps_ms: list[float]) -> list[str]:
    ordered = sorted(gaps_ms)
    shares = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99, 0.999)]
    return [name, str(len(ordered)), *(f"{value:.1f}" for value in (*shares, ordered[-1]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128_000)
    parser.add_argument("--loads", type=int, default=5)
    args = parser.parse_args()
    backend_port, port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        known = tuple(endpoints(Path(folder), backend_port, args.tokens, args.loads))
        listed = Path(folder) / "endpoints.json"
        listed.write_bytes(msgspec.json.encode(DirectoryAnswer("e", 1, whole=True, changed=known)))
        backend = [str(ROOT / "benchmarks" / "canned_backend.py"), "--port", str(backend_port)]
        backend += ["--interval_ms", str(INTERVAL_MS)]
        gateway = ["-m", "pilotlight_gateway", "--host", "127.0.0.1", "--port", str(port), "--auth", "open"]
        gateway += ["--endpoints", str(listed), "--log_level", "WARNING"]
        url = f"http://127.0.0.1:{port}"
        with (
            server("canned", backend, f"http://127.0.0.1:{backend_port}/health", LOGS),
            server("gateway", gateway, f"{url}/healthz", LOGS),
        ):
            quiet_ms, busy_ms, first_s = asyncio.run(measure(url, args.loads))
    table = Table("gap between events, ms", "events", "p50", "p99", "p99.9", "longest")
    table.add_row(*told("nothing is loaded", quiet_ms))
    table.add_row(*told(f"{args.loads} tokenizers of {args.tokens} tokens are loaded", busy_ms))
    console = Console()
    console.print(table)
    console.print(f"first answer of a tokenizer: {statistics.median(first_s):.2f} s (median)")
    figures = {"quiet_ms": told("", quiet_ms)[1:], "busy_ms": told("", busy_ms)[1:], "first_s": first_s}
    console.print(json.dumps(figures))


if __name__ == "__main__":
    main()
