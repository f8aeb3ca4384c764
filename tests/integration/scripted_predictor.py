"""The predictor's front on the scripted engine, run as a process by tests and profiles: no vLLM.

`python scripted_predictor.py [the predictor's own arguments] [--step_s S] [--boot_s S]`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

from scripted_engine import ScriptedProvider

from pilotlight_predictor.__main__ import main as predictor_main


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--step_s", type=float, default=0.0)
    parser.add_argument("--boot_s", type=float, default=0.0)
    args, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    return predictor_main(lambda _: ScriptedProvider(args.step_s, args.boot_s))


if __name__ == "__main__":
    raise SystemExit(main())
