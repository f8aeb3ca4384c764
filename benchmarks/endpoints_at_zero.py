"""Time to ready and memory of `pilotlight up` with many endpoints at zero; `endpoints_at_zero.py [N]`.

Ready means: `/healthz` answers on the ingress port, and status lists every endpoint. Then every endpoint is still at
zero, and memory is read again after some autoscaler ticks.
"""

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml
from rich.console import Console
from rich.table import Table

GOAL_READY_S = 5.0
GOAL_RSS_MB = 200.0
SETTLE_S = 6.0
DEADLINE_S = 60.0


def endpoint(number: int) -> dict[str, object]:
    """A predictor and a transformer, as a tenant's endpoint has them."""

    def component(name: str) -> dict[str, object]:
        container = {
            "name": "kserve-container",
            "image": f"pilotlight-{name}:latest",
            "args": [f"--model_name=tenant-{number}", "--model_uri=bundled://demo-awq"],
            "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}, "periodSeconds": 1},
        }
        return {"minReplicas": 0, "maxReplicas": 2, "containerConcurrency": 32, "containers": [container]}

    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": f"tenant-{number}",
            "namespace": f"team-{number % 10}",
            "annotations": {"serving.kserve.io/deploymentMode": "Knative"},
        },
        "spec": {"predictor": component("predictor"), "transformer": component("transformer")},
    }


def is_healthy(port: int) -> bool:
    """Whether the ingress answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def status(state_dir: Path) -> list[dict[str, object]]:
    """The rows of `pilotlight status --json`."""
    argv = [sys.executable, "-m", "pilotlight_local", "status", "--json", "--state-dir", str(state_dir)]
    return list(json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)["components"])


def measure(count: int, folder: Path) -> dict[str, float]:
    """Start a platform with `count` endpoints in one file each, and look at it."""
    specs = folder / "specs"
    specs.mkdir()
    for number in range(count):
        (specs / f"{number}.yaml").write_text(yaml.safe_dump(endpoint(number)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    state_dir = folder / "state"
    argv = [sys.executable, "-m", "pilotlight_local", "up", "--no-gateway", str(specs), "--port", str(port)]
    started_s = time.monotonic()
    platform = subprocess.Popen([*argv, "--state-dir", str(state_dir)], stdout=subprocess.DEVNULL)
    try:
        process = psutil.Process(platform.pid)
        while not is_healthy(port):
            if time.monotonic() > started_s + DEADLINE_S or platform.poll() is not None:
                raise SystemExit("the platform did not come up")
            time.sleep(0.01)
        ready_s = time.monotonic() - started_s
        start_cpu_s = sum(process.cpu_times()[:2])
        rss_mb = process.memory_info().rss / 1e6
        endpoints = {(row["namespace"], row["endpoint"]) for row in status(state_dir)}
        if len(endpoints) != count:
            raise SystemExit(f"{len(endpoints)} of {count} endpoints are there")
        before_s = sum(process.cpu_times()[:2])
        time.sleep(SETTLE_S)
        idle_cpu = (sum(process.cpu_times()[:2]) - before_s) / SETTLE_S
        return {
            "ready, s": ready_s,
            "CPU until ready, s": start_cpu_s,
            "RSS when ready, MB": rss_mb,
            f"RSS after {SETTLE_S:.0f} s, MB": process.memory_info().rss / 1e6,
            "idle CPU, % of a core": idle_cpu * 100,
            "processes": float(len(process.children(recursive=True)) + 1),
        }
    finally:
        platform.terminate()
        platform.wait(DEADLINE_S)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(count, Path(folder))
    table = Table("figure", "measured", "goal", title=f"{count} endpoints at zero")
    goals = {"ready, s": GOAL_READY_S, "RSS when ready, MB": GOAL_RSS_MB}
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}", f"< {goals[name]:.0f}" if name in goals else "")
    Console().print(table)
    if any(figures[name] >= goal for name, goal in goals.items()):
        raise SystemExit("a goal is missed")


if __name__ == "__main__":
    main()
