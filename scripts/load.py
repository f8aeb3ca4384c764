"""`make load`: Locust's users on a platform of their own: thresholds, and a report in benchmarks/out/load.html.

    python scripts/load.py [--users 24] [--seconds 60] [--ui] [--trace FILE]

With --ui Locust's web page runs until Ctrl-C instead. With --trace the trace is replayed instead of users who think.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from demo_platform import ROOT, free_port, platform_up
from rich.console import Console

SPEC, MODEL = "inferenceservices/quickstart.yaml", "quickstart"
REPORT = ROOT / "benchmarks" / "out" / "load.html"
USERS = ("ChatUser", "V2User", "TenantUser", "GrpcUser")
FIRST_ANSWER_S = 300.0
console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--ui", action="store_true")
    parser.add_argument("--trace", default="")
    args = parser.parse_args()
    work, door = Path(tempfile.mkdtemp(prefix="pilotlight-load-")), free_port()
    try:
        with platform_up(console, work, SPEC, gateway_port=door):
            _wake(door)
            command = _locust(args, door)
            console.print(f"[bold]$ {' '.join(command[2:])}[/]")
            return subprocess.run(command, cwd=ROOT, check=False).returncode
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _locust(args: argparse.Namespace, door: int) -> list[str]:
    host = f"http://127.0.0.1:{door}"
    command = [sys.executable, "-m", "locust", "-f", "tests/load/locustfile.py", f"--host={host}", f"--model={MODEL}"]
    command += [f"--grpc-host=127.0.0.1:{door}"]
    if args.ui:
        return [*command, *USERS]
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    command += ["--headless", "--only-summary", "--stop-timeout=60", f"--html={REPORT}"]
    if args.trace:
        return [*command, "--users=1", f"--trace={args.trace}", "TraceUser"]
    return [*command, f"--users={args.users}", "--spawn-rate=4", f"--run-time={args.seconds}s", *USERS]


def _wake(door: int) -> None:
    """vLLM is imported and an engine runs: traffic is measured, not a machine that has just begun."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    httpx.post(f"http://127.0.0.1:{door}/v1/chat/completions", json=body, timeout=FIRST_ANSWER_S).raise_for_status()


if __name__ == "__main__":
    raise SystemExit(main())
