"""What rendering and derendering cost: `vllm launch render` and our transformer, the same requests, one run.

    python benchmarks/split.py [--requests 300]

Both servers serve the real model's tokenizer and template; requests go one after the other over one connection, rounds
interleaved. Prints the time of a request (median) and the CPU time of the server per request, and checks that both
render the same tokens and derender the same text.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from processes import free_port, server
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out"
MODEL = ROOT / ".real-model" / "smollm2-135m"
NAME = "bench"
VLLM, OURS = "vllm launch render", "transformer"
TURN = "Scale to zero means that nothing runs, and nothing is paid, while nobody asks. "
ROUNDS = 3
Body = dict[str, Any]


def messages(turns: int) -> Body:
    said = [{"role": ("user", "assistant")[turn % 2], "content": TURN * 4} for turn in range(turns * 2 - 1)]
    return {"model": NAME, "messages": said, "max_tokens": 64}


@dataclass
class Served:
    name: str
    port: int
    process: psutil.Process
    micros: dict[str, list[float]] = field(default_factory=dict)
    cpu_micros: dict[str, float] = field(default_factory=dict)

    def ask(self, path: str, bodies: list[Body]) -> list[Any]:
        """The answers; their times are kept under `path` and the bodies' size."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        answers = []
        for body in bodies:
            data = json.dumps(body).encode()
            connection.request("POST", path, data, {"content-type": "application/json"})
            answers.append(json.loads(connection.getresponse().read()))
        connection.close()
        return answers

    def measure(self, label: str, path: str, body: Body, requests: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data, times = json.dumps(body).encode(), self.micros.setdefault(label, [])
        before = self._cpu_s()
        for _ in range(requests):
            started_s = time.perf_counter()
            connection.request("POST", path, data, {"content-type": "application/json"})
            reply = connection.getresponse()
            reply.read()
            times.append((time.perf_counter() - started_s) * 1e6)
            if reply.status != 200:
                raise RuntimeError(f"{self.name} answered {reply.status}")
        connection.close()
        spent = (self._cpu_s() - before) * 1e6 / requests
        self.cpu_micros[label] = self.cpu_micros.get(label, 0.0) + spent / ROUNDS

    def _cpu_s(self) -> float:
        """With what it has started: templates are rendered in a process of their own."""
        times = [each.cpu_times() for each in (self.process, *self.process.children(recursive=True))]
        return sum(spent.user + spent.system for spent in times)


def start(stack: ExitStack) -> list[Served]:
    ports, logs = (free_port(), free_port()), OUT / "logs"
    vllm = [str(ROOT / "benchmarks" / "vllm_render.py"), "--model", str(MODEL), "--served-model-name", NAME]
    ours = ["-m", "pilotlight_transformer", "--model_name", NAME, "--model_dir", str(MODEL)]
    commands = {
        VLLM: ([*vllm, "--host", "127.0.0.1", "--port", str(ports[0]), "--disable-uvicorn-access-log"], "/health"),
        OURS: ([*ours, "--predictor_host", "127.0.0.1:9", "--http_port", str(ports[1])], "/v2/health/ready"),
    }
    env = {"HF_HUB_OFFLINE": "1"}
    return [
        Served(
            name,
            port,
            stack.enter_context(server(name.replace(" ", "-"), argv, f"http://127.0.0.1:{port}{path}", logs, env)),
        )
        for (name, (argv, path)), port in zip(commands.items(), ports, strict=True)
    ]


def derender_body(rendered: Body, tokens: list[int]) -> Body:
    choice = {"index": 0, "token_ids": tokens, "finish_reason": "length"}
    answer = {"request_id": "r", "choices": [choice]}
    return {"model": NAME, "generate_response": answer, "prompt_token_ids": rendered["token_ids"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300, help="per round and kind")
    args = parser.parse_args()
    with ExitStack() as stack:
        systems = start(stack)
        kinds: dict[str, tuple[str, Body]] = {}
        for turns in (1, 20):
            asked = messages(turns)
            rendered = [system.ask("/v1/chat/completions/render", [asked])[0] for system in systems]
            if rendered[0]["token_ids"] != rendered[1]["token_ids"]:
                raise RuntimeError("the two render different tokens")
            kinds[f"render, {len(rendered[0]['token_ids'])} tokens"] = ("/v1/chat/completions/render", asked)
        for count in (64, 512):
            body = derender_body(rendered[0], rendered[0]["token_ids"][4 : 4 + count])
            texts = [
                system.ask("/v1/chat/completions/derender", [body])[0]["choices"][0]["message"]["content"]
                for system in systems
            ]
            if texts[0] != texts[1]:
                raise RuntimeError("the two derender different text")
            kinds[f"derender, {count} tokens"] = ("/v1/chat/completions/derender", body)
        for _ in range(ROUNDS):
            for label, (path, body) in kinds.items():
                for system in systems:
                    system.measure(label, path, body, args.requests)
        Console().print(report(systems, list(kinds)))
    return 0


def report(systems: list[Served], labels: list[str]) -> Table:
    table = Table("µs per request: median (server's CPU)", *(system.name for system in systems))
    for label in labels:
        cells = (f"{statistics.median(each.micros[label]):.0f} ({each.cpu_micros[label]:.0f})" for each in systems)
        table.add_row(label, *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
