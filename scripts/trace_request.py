"""`make trace-request`: the way of one warm chat request through the real processes, file by file.

Runs the quickstart with real vLLM, sends a few requests one by one, and keeps what every one of them entered, so that a
probe or a tick beside one is not part of the way. Writes docs/request-way.md; with --json only prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml
from demo_platform import ROOT, platform_up
from rich.console import Console

SPEC = ROOT / "inferenceservices" / "quickstart.yaml"
TRACING = ROOT / "scripts" / "request_tracing"
PAGE = ROOT / "docs" / "request-way.md"
ZYGOTE = "predictors/pilotlight_engine/host/zygote.py"
WINDOWS = 5
DUMP_DEADLINE_S = 10.0
ROLES = {
    "platform": ("up", "--state-dir"),
    "transformer": ("-m", "pilotlight_transformer"),
    "predictor": ("-m", "pilotlight_predictor"),
}
Way = dict[str, str]
"""File, from the repository's root, to the function entered first; in the order of the request."""


def main() -> int:
    as_json = sys.argv[1:] == ["--json"]
    console = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="pilotlight-trace-") as folder:
        ways = trace(console, Path(folder))
    if as_json:
        print(json.dumps(ways))
        return 0
    page = written(ways)
    PAGE.write_text(page, encoding="utf-8")
    print(page)
    return 0


def trace(console: Console, work: Path) -> dict[str, Way]:
    """Role to the files that every traced request entered there."""
    notes = work / "notes"
    notes.mkdir()
    added = {"PYTHONPATH": str(TRACING), "PILOTLIGHT_REQUEST_TRACE": str(notes)}
    spec = work / "quickstart.yaml"
    spec.write_text(yaml.safe_dump_all(with_environment(added)))
    os.environ |= added
    program = (sys.executable, str(TRACING / "traced_platform.py"))
    with platform_up(console, work, str(spec), program) as (_, port), httpx.Client(timeout=300) as client:
        url = f"http://127.0.0.1:{port}/serving/default/quickstart/openai/v1/chat/completions"
        ask(client, url)
        ask(client, url)
        windows = [one_request(client, url, notes) for _ in range(WINDOWS)]
    ways: dict[str, Way] = {}
    for role, first in windows[0].items():
        always = set(first).intersection(*(window.get(role, {}) for window in windows))
        ways[role] = {file: function for file, function in first.items() if file in always}
    return {role: ways[role] for role in (*ROLES, "engine host", "pool") if ways.get(role)}


def with_environment(added: dict[str, str]) -> list[Any]:
    documents = list(yaml.safe_load_all(SPEC.read_text()))
    for document in documents:
        for container in containers(document):
            container.setdefault("env", []).extend({"name": name, "value": value} for name, value in added.items())
    return documents


def containers(document: Any) -> list[dict[str, Any]]:
    spec = document.get("spec", {})
    found = list(spec.get("containers", []))
    for component in (spec.get("predictor", {}), spec.get("transformer", {})):
        found += [component["model"]] if "model" in component else component.get("containers", [])
    return found


def ask(client: httpx.Client, url: str) -> None:
    messages = [{"role": "user", "content": "What is scale to zero?"}]
    body = {"model": "quickstart", "messages": messages, "stream": True, "max_tokens": 8, "temperature": 0}
    answer = client.post(url, json=body)
    answer.raise_for_status()
    assert answer.text.endswith("data: [DONE]\n\n"), answer.text


def one_request(client: httpx.Client, url: str, notes: Path) -> dict[str, Way]:
    pids = [int(path.stem) for path in notes.glob("*.here") if listens(path.stem)]
    before = set(notes.iterdir())
    toggle(pids)
    time.sleep(0.1)
    ask(client, url)
    toggle(pids)
    deadline_s = time.monotonic() + DUMP_DEADLINE_S
    ways: dict[str, Way] = {}
    waiting = set(pids)
    while waiting and time.monotonic() < deadline_s:
        for path in set(notes.glob("*.[0-9]*")) - before:
            if path.suffix == ".part" or int(path.stem) not in waiting:
                continue
            waiting.discard(int(path.stem))
            way = ours(json.loads(path.read_text()))
            if set(way) - {ZYGOTE}:  # the zygote is woken by our signal
                role = role_of(int(path.stem), way)
                ways[role] = ways.get(role, {}) | way
        time.sleep(0.02)
    return ways


def listens(pid: str) -> bool:
    """Whether it still has the handler: what was announced may have ended, or become another program."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(caught >> (signal.SIGUSR2 - 1) & 1)


def toggle(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR2)


def ours(entered: dict[str, str]) -> Way:
    return {
        str(Path(file).relative_to(ROOT)): function
        for file, function in entered.items()
        if file.startswith(str(ROOT)) and ".venv" not in file and "scripts" not in file
    }


def role_of(pid: int, way: Way) -> str:
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    for role, marks in ROLES.items():
        if all(any(argument.endswith(mark) for argument in arguments) for mark in marks):
            return role
    return "engine host" if any("pilotlight_engine" in file for file in way) else "pool"


def written(ways: dict[str, Way]) -> str:
    lines = [
        "# The way of a warm chat request",
        "",
        "Made by `make trace-request`; do not edit. Per process the files that a streamed chat request enters in turn,",
        "with the function entered first. Generated code (dataclasses) and libraries are left out.",
    ]
    for role, way in ways.items():
        lines += ["", f"## {role}: {len(way)} files", ""]
        lines += [f"{place}. `{file}`: `{function}`" for place, (file, function) in enumerate(way.items(), start=1)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
