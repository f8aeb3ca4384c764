"""What a constraint costs before the first token: vLLM's own server beside transformer + predictor, a real model.

    python benchmarks/structured.py [--samples 10]

Needs `make real-model`. One request at a time, streamed, greedy, the same body to both; a *new* schema differs from
every one before it in its text, a *repeated* one was asked for just before. The first constrained request of a server's
life has a row of its own: ours loads the tokenizer then, vLLM's at boot. Prints a table and writes a picture and the
raw figures under benchmarks/out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psutil
from api import MODEL, OUT, PERSON, ROOT, Body, common, start_systems
from rich.console import Console
from rich.table import Table
from side_by_side import PAIR, VLLM, System

Schema = dict[str, Any]
Samples = dict[tuple[str, str], list[float]]

FREE, FIRST = "no constraint", "the first constrained request"


def small(number: int) -> Schema:
    return PERSON | {"description": f"person {number}"}


def large(number: int) -> Schema:
    """Twenty nullable objects of four properties each."""
    properties = {f"field_{number}_{place}": {"anyOf": [PERSON, {"type": "null"}]} for place in range(20)}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def wide(number: int) -> Schema:
    """What xgrammar does not enforce: llguidance does."""
    word = {"type": "string", "pattern": "[a-z]", "minLength": 1, "maxLength": 40}
    person: Schema = {**PERSON, "description": f"person {number}"}
    person["properties"] = person["properties"] | {"name": word}
    return person


KINDS: dict[str, Callable[[int], Schema]] = {
    "4 properties": small,
    "20 objects of 4": large,
    "with what xgrammar lacks": wide,
}


def body(schema: Schema | None, max_tokens: int = 4) -> Body:
    asked = common([{"role": "user", "content": "Ada, 36, a pilot from London: as JSON, please."}], max_tokens)
    if schema is None:
        return asked
    return asked | {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}}


def ttft_ms(system: System, asked: Body) -> float:
    (stream,) = system.measure([asked], 1).load.streams
    return 1000 * stream.ttft_s


def measured(systems: list[System], samples: int) -> Samples:
    found: Samples = {}

    def note(system: System, row: str, asked: Body) -> None:
        found.setdefault((system.name, row), []).append(ttft_ms(system, asked))

    for system in systems:
        for _ in range(3):
            ttft_ms(system, body(None))
        note(system, FIRST, body(small(0)))
    for number in range(1, samples + 1):
        for system in systems if number % 2 else reversed(systems):
            note(system, FREE, body(None))
            for name, make in KINDS.items():
                for row in (f"{name}, new", f"{name}, repeated"):
                    note(system, row, body(make(number)))
    return found


def rows(found: Samples) -> list[str]:
    return list(dict.fromkeys(row for _, row in sorted(found, key=lambda key: key[1] not in (FREE, FIRST))))


def table(found: Samples, title: str) -> Table:
    shown = Table(title=title)
    for column in ("request", "vLLM p50 ms", "vLLM max", "ours p50 ms", "ours max", "ours − vLLM"):
        shown.add_column(column, justify="left" if column == "request" else "right")
    for row in rows(found):
        theirs, ours = found[VLLM, row], found[PAIR, row]
        middle = statistics.median(theirs), statistics.median(ours)
        figures = (middle[0], max(theirs), middle[1], max(ours), middle[1] - middle[0])
        shown.add_row(row, *(f"{figure:.1f}" for figure in figures))
    return shown


def picture(found: Samples, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = rows(found)
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    for number, system in enumerate((VLLM, PAIR)):
        places = [place + (-0.2 if number == 0 else 0.2) for place in range(len(names))]
        axes.barh(places, [statistics.median(found[system, row]) for row in names], 0.4, label=system)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time to the first token, ms (median)")
    axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(OUT / "structured.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10)
    args = parser.parse_args()
    if not MODEL.exists():
        raise SystemExit(f"there is no {MODEL.relative_to(ROOT)}: run `make real-model` first")
    OUT.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        found = measured(start_systems(stack), args.samples)
    machine = f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {psutil.cpu_count()} cores"
    title = f"SmolLM2-135M, time to the first token of structured outputs, {machine}"
    console = Console(width=130)
    console.print(table(found, title))
    picture(found, title)
    (OUT / "structured.json").write_text(json.dumps({f"{name}, {row}": times for (name, row), times in found.items()}))
    console.print("picture: benchmarks/out/structured.png")


if __name__ == "__main__":
    main()
