"""Starts a component as a process, waits for it with a deadline, keeps its log, and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from process_table import children
from waiting import until


@dataclass(frozen=True)
class RunningComponent:
    base: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    model_name: str = ""

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.base + path, timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def post(self, path: str, body: object) -> tuple[int, bytes]:
        request = urllib.request.Request(
            self.base + path, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def children(self) -> list[int]:
        """Process ids of the direct children."""
        return children(self.process.pid)


@contextlib.contextmanager
def running(
    argv: Sequence[str],
    port: int,
    log: Path,
    *,
    deadline_s: float = 60.0,
    model_name: str = "",
    environment: dict[str, str] | None = None,
) -> Iterator[RunningComponent]:
    """`argv` behind the interpreter, ready on `port`; ended by SIGTERM, then SIGKILL of its group."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *argv],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    component = RunningComponent(f"http://127.0.0.1:{port}", port, process, log, model_name)

    def ready() -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}:\n{tail(log)}"
        with contextlib.suppress(OSError):
            return component.get("/v2/health/ready")[0] == 200
        return False

    try:
        until(ready, deadline_s, f"ready; its log:\n{tail(log)}")
        yield component
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
