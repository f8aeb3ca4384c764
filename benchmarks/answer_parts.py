"""What reading calls out of a stream costs per token, for every format.

python benchmarks/answer_parts.py [--chars 4] [--kilobytes 100]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fakes"))
import written_calls as written

from pilotlight_text.answer_parts.chosen_format import ChosenFormat


@dataclass(frozen=True)
class _Function:
    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


FORMATS = {
    "hermes": written.hermes,
    "qwen3_coder": written.qwen_xml,
    "llama3_json": written.llama_json,
    "pythonic": written.pythonic,
    "mistral": written.mistral_named,
    "deepseek_v3": written.deepseek_v3,
    "granite": written.granite,
    "phi4_mini_json": written.phi,
    "openai": written.harmony,
}


def us_per_token(name: str, text: str, chars: int) -> float:
    parser = ChosenFormat(name, None).parser((_Function("f"),), calls=True, prompt_end="")
    assert parser is not None
    pieces = [text[start : start + chars] for start in range(0, len(text), chars)]
    start_s = time.perf_counter()
    for piece in pieces:
        parser.push(piece)
    parser.finish()
    return (time.perf_counter() - start_s) / len(pieces) * 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--chars", type=int, default=4, help="of a token")
    options.add_argument("--kilobytes", type=int, default=100, help="of a call's arguments")
    given = options.parse_args()
    prose = "Some words, \"quoted\" and 'so', [1] {2}\nand a line. " * (given.kilobytes * 1000 // 50)
    print(
        f"{'format':16} {'content':>10} {'a call':>10} {'twice as long':>14}   µs per token of {given.chars} characters"
    )
    for name, write in FORMATS.items():
        content, call, twice = (
            min(us_per_token(name, text, given.chars) for _ in range(3))
            for text in (prose, write([("f", {"code": prose})]), write([("f", {"code": prose * 2})]))
        )
        print(f"{name:16} {content:10.2f} {call:10.2f} {twice:14.2f}")


if __name__ == "__main__":
    main()
