"""The text API beside vLLM's own server: chat, structured outputs and tool calls of a real model, in one run.

    python benchmarks/api.py [--rounds 3] [--levels 1 8 32]

Needs `make real-model`. Both serve SmolLM2-135M's fine-tune that calls functions, with the same engine flags; one is
under load at a time, rounds interleaved. A chat answer has exactly `--output_tokens` tokens; structured and tool ones
end where their JSON does, at the same token for both (greedy). Before the load each answers a few of every kind whole:
JSON that does not fit its schema, or no call of the right function, ends the run. Prints a table and writes a picture
and the raw figures under benchmarks/out.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jsonschema
import psutil
from rich.console import Console
from side_by_side import PAIR, VLLM, Cell, Cells, System, picture, start_servers, table, usage_tokens

from pilotlight_model_making.adapter_corpus import record_lesson, tool_lesson

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "out"
MODEL = ROOT / ".real-model" / "smollm2-135m-tools"
NAME = "bench"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "job": {"enum": ["baker", "pilot", "nurse", "teacher", "farmer"]},
        "city": {"type": "string", "maxLength": 20},
    },
    "required": ["name", "age", "job", "city"],
    "additionalProperties": False,
}

Body = dict[str, object]


def common(messages: Sequence[Any], max_tokens: int) -> Body:
    return {
        "model": NAME,
        "messages": list(messages),
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def chat(dice: random.Random, tokens: int) -> Body:
    messages, _ = record_lesson(dice)
    return common(messages[:1], tokens) | {"ignore_eos": True}


def structured(dice: random.Random, tokens: int) -> Body:
    messages, _ = record_lesson(dice)
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    return common(messages[:1], 2 * tokens) | {"response_format": form}


def tool(dice: random.Random, tokens: int) -> Body:
    messages, tools = tool_lesson(dice)
    return common(messages[:1], 2 * tokens) | {"tools": tools, "tool_choice": "auto"}


WORKLOADS: dict[str, Callable[[random.Random, int], Body]] = {"chat": chat, "structured": structured, "tool": tool}


def start_systems(stack: ExitStack) -> list[System]:
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    of = start_servers(stack, MODEL, NAME, OUT / "logs", *tools)
    pair = [("predictor", of.predictor), ("transformer", of.transformer)]
    return [
        System(VLLM, f"http://127.0.0.1:{of.vllm_port}/v1/chat/completions", usage_tokens, [("server", of.vllm)]),
        System(PAIR, f"http://127.0.0.1:{of.transformer_port}/openai/v1/chat/completions", usage_tokens, pair),
    ]


def answer(system: System, body: Body) -> dict[str, Any]:
    whole = {name: value for name, value in body.items() if not name.startswith("stream")}
    request = urllib.request.Request(
        system.url, json.dumps(whole).encode(), {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        message: dict[str, Any] = json.load(reply)["choices"][0]["message"]
    return message


def check(system: System, args: argparse.Namespace) -> None:
    """Raises where an answer is not what was asked for."""
    dice = random.Random(5)
    for _ in range(3):
        jsonschema.validate(json.loads(answer(system, structured(dice, args.output_tokens))["content"]), PERSON)
        messages, tools = tool_lesson(dice)
        expected = messages[1]["tool_calls"][0]["function"]
        body = common(messages[:1], 2 * args.output_tokens) | {"tools": tools, "tool_choice": "auto"}
        (call,) = answer(system, body)["tool_calls"]
        if call["function"]["name"] != expected["name"] or set(json.loads(call["function"]["arguments"])) != set(
            expected["arguments"]
        ):
            raise RuntimeError(f"{system.name} called {call['function']}, not {expected}")


def load_name(kind: str, level: int) -> str:
    return f"{kind} {level}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--output_tokens", type=int, default=48, help="of a chat answer; others: twice at most")
    args = parser.parse_args()
    if not MODEL.exists():
        raise SystemExit(f"there is no {MODEL.relative_to(ROOT)}: run `make real-model` first")
    OUT.mkdir(parents=True, exist_ok=True)
    console = Console(width=150)
    cells: Cells = {}
    dice = random.Random(7)
    with ExitStack() as stack:
        systems = start_systems(stack)
        for system in systems:
            check(system, args)
        for number in range(args.rounds):
            for kind, make in WORKLOADS.items():
                for level in args.levels:
                    bodies = [make(dice, args.output_tokens) for _ in range(max(level, 4))]
                    for system in systems if number % 2 == 0 else reversed(systems):
                        sample = system.measure(bodies, level)
                        cells.setdefault((system.name, load_name(kind, level)), Cell()).samples.append(sample)
                        rate = f"{sample.load.tokens} tokens, {sample.load.tokens_per_s:.0f} tokens/s"
                        console.print(f"round {number + 1}, {kind} c={level}, {system.name}: {rate}")
    names = [VLLM, PAIR]
    loads = [load_name(kind, level) for kind in WORKLOADS for level in args.levels]
    machine = f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {psutil.cpu_count()} cores"
    title = f"SmolLM2-135M, tools fine-tune: kind of request and streams at once, {machine}"
    console.print(table(cells, names, loads, title))
    picture(cells, names, loads, title, OUT / "api.png")
    raw = {f"{name}, {load}": cell.raw() for (name, load), cell in cells.items()}
    (OUT / "api.json").write_text(json.dumps(raw, indent=1))
    console.print("picture: benchmarks/out/api.png")


if __name__ == "__main__":
    main()
