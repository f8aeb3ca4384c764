"""`make load`: Locust's users on a platform of their own: thresholds, and a report in benchmarks/out/load.html.

    python scripts/load.py [--users 24] [--seconds 60] [--ui] [--trace FILE]

With --ui Locust's web page runs until Ctrl-C instead. With --trace the trace is replayed instead of users who think.
The users are those of three tenants with a key and limits each, so that every step of the gateway is under load.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from demo_platform import ROOT, free_port, platform_up
from rich.console import Console

from pilotlight_gateway.commands import random_key
from pilotlight_gateway.limits.limit_terms import LimitTerms
from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.sqlite_store import FILE_NAME, SqliteTenants
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_local.state_dir import StateDir

SPEC, MODEL = "inferenceservices/quickstart.yaml", "quickstart"
REPORT = ROOT / "benchmarks" / "out" / "load.html"
USERS = ("ChatUser", "V2User", "TenantUser", "GrpcUser")
FIRST_ANSWER_S = 300.0
TENANTS = ("first", "second", "third")
LIMITS = LimitTerms(requests_per_minute=1_000_000, tokens_per_minute=1_000_000_000, concurrency=1000)
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
            keys = _keys(StateDir(work / "state").gateway)
            _wake(door, keys[0])
            command = _locust(args, door)
            console.print(f"[bold]$ {' '.join(command[2:])} --keys=…[/]")
            command.append(f"--keys={','.join(keys)}")
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


def _keys(folder: Path) -> list[str]:
    """One of each tenant, whose namespace is their own and that of the spec; the gateway hears of them in a moment."""
    store, shown = SqliteTenants(folder / FILE_NAME), []
    for tenant in TENANTS:
        settings = TenantSettings(limits=LIMITS, namespaces=("default",))
        store.change(tenant, tenant_orders.create_tenant(tenant, settings, time.time()))
        key = random_key()
        store.change(tenant, tenant_orders.create_key(tenant, key, time.time()))
        shown.append(key.shown)
    store.close()
    time.sleep(1.0)
    return shown


def _wake(door: int, key: str) -> None:
    """vLLM is imported and an engine runs: traffic is measured, not a machine that has just begun."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    url, headers = f"http://127.0.0.1:{door}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    httpx.post(url, json=body, headers=headers, timeout=FIRST_ANSWER_S).raise_for_status()


if __name__ == "__main__":
    raise SystemExit(main())
