"""A `pilotlight up` for a demo: a state directory of its own, ended whatever happens, its logs shown on failure."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
from rich.console import Console

from pilotlight_local.cli.control_client import ControlClient
from pilotlight_local.errors import PlatformError
from pilotlight_local.state_dir import StateDir

ROOT = Path(__file__).parents[1]
PILOTLIGHT = str(Path(sys.executable).with_name("pilotlight"))
START_DEADLINE_S = 120.0
LOG_TAIL_CHARS = 6000


@contextlib.contextmanager
def platform_up(
    console: Console, work: Path, spec: str, program: Sequence[str] = (PILOTLIGHT,), gateway_port: int | None = None
) -> Iterator[tuple[ControlClient, int]]:
    """`spec` is a path from the repository's root or an absolute one; yields the platform's control and its port.
    Without `gateway_port` there is no gateway."""
    port, state, log = free_port(), work / "state", work / "up.log"
    door = ["--no-gateway"] if gateway_port is None else ["--gateway-port", str(gateway_port)]
    console.print(f"[bold]$ pilotlight up {spec} --port {port} {' '.join(door)}[/]")
    with log.open("wb") as sink:
        command = [*program, "up", spec, *door, "--port", str(port), "--state-dir", str(state)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT)
    control = ControlClient(StateDir(state))
    try:
        deadline_s = time.monotonic() + START_DEADLINE_S
        while not (answers(control) and (gateway_port is None or listens(gateway_port))):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit("pilotlight up did not start")
            time.sleep(0.05)
        yield control, port
        console.print("\n[bold yellow]pilotlight down[/]")
        control.down(60)
        console.print(f"ended with exit code {process.wait(30)}, no process is left")
    except BaseException:
        for path in (log, state / "pool" / "logs" / "pool.log"):
            if path.is_file():
                console.print(f"{path.name}:\n{path.read_text()[-LOG_TAIL_CHARS:]}", markup=False, style="red")
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def answers(control: ControlClient) -> bool:
    try:
        control.status()
    except PlatformError:
        return False
    return True


def listens(gateway_port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{gateway_port}/readyz", timeout=5).is_success
    except httpx.HTTPError:
        return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
