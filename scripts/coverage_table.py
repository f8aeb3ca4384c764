"""Prints what `make coverage` measured, a line per package: python scripts/coverage_table.py COVERAGE_JSON."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path


def main() -> None:
    covered: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for name, measured in json.loads(Path(sys.argv[1]).read_text())["files"].items():
        found = re.search(r"pilotlight_\w+", name)
        if found is None:
            continue
        summary = measured["summary"]
        covered[found.group()] += summary["covered_lines"] + summary["covered_branches"]
        total[found.group()] += summary["num_statements"] + summary["num_branches"]
    for package in sorted(total):
        _tell(package, covered[package], total[package])
    _tell("all", covered.total(), total.total())


def _tell(name: str, covered: int, total: int) -> None:
    print(f"{name:26} {100 * covered / total:5.1f} %  of {total:5} statements and branches")


if __name__ == "__main__":
    main()
