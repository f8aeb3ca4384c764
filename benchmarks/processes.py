"""Starts the servers a benchmark compares and reads what each of their processes burns."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

READY_DEADLINE_S = 420.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def server(
    name: str,
    argv: list[str],
    ready_url: str,
    log_dir: Path,
    env: dict[str, str] | None = None,
    program: Sequence[str] = (sys.executable,),
) -> Iterator[psutil.Process]:
    """Run `program argv…`, Python unless said otherwise, until the block ends; yields once `ready_url` answers 200."""
    log_dir.mkdir(parents=True, exist_ok=True)
    log = log_dir / f"{name}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*program, *argv],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        _wait_ready(name, process, ready_url, log)
        yield psutil.Process(process.pid)
    finally:
        family = [process.pid] + [child.pid for child in _children(process.pid)]
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        for pid in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        process.wait(10)


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _wait_ready(name: str, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(
                f"{name} ended with {process.returncode} before it was ready:\n{log.read_text()[-3000:]}"
            )
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{name} was not ready within {READY_DEADLINE_S:.0f} s; see {log}")


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def cpu_by_role(root: psutil.Process, roles: dict[str, str], default: str) -> dict[str, float]:
    """CPU seconds of `root` (role `default`) and of its descendants, by a substring of their name or command line."""
    spent: dict[str, float] = {}
    for (role, _), seconds in cpu_by_process(root, roles, default).items():
        spent[role] = spent.get(role, 0.0) + seconds
    return spent


def cpu_by_process(root: psutil.Process, roles: dict[str, str], default: str) -> dict[tuple[str, int], float]:
    """The same of each process, by its role and pid: where some end meanwhile, sums by role would shrink."""
    spent = {(default, root.pid): cpu_seconds(root)}
    for child in root.children(recursive=True):
        try:
            text = f"{child.name()} {' '.join(child.cmdline())}"
            role = next((name for needle, name in roles.items() if needle in text), "other")
            spent[role, child.pid] = cpu_seconds(child)
        except psutil.NoSuchProcess:
            continue
    return spent
