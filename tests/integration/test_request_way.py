"""How many files a warm chat request passes in each process, with real vLLM: not more than today."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MOST_FILES = {"platform": 12, "transformer": 32, "predictor": 20, "engine host": 10}
"""Today's, and one more for a path of chance; the goals are 6, 10, 9 and 5. The transformer's way grew with what the
text API takes: its fields, the shape of a conversation and the core of its answer have files of their own; the engine
host's with the mapping of its parameters, the adapter of a lease and the constraint of an output; the edge of each by
what uvicorn's one file did, and was not counted: an answer's writing, deadlines, the pool of connections."""


@pytest.fixture(scope="module")
def ways() -> dict[str, dict[str, str]]:
    command = [sys.executable, str(ROOT / "scripts" / "trace_request.py"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("role", MOST_FILES)
def test_the_way_is_not_longer_than_today(role: str, ways: dict[str, dict[str, str]]) -> None:
    assert 1 < len(ways[role]) <= MOST_FILES[role], "\n".join(ways[role])


def test_the_page_shows_every_process() -> None:
    page = (ROOT / "docs" / "request-way.md").read_text()
    assert all(f"## {role}: " in page for role in MOST_FILES)
