"""The gateways that are compared, each in front of the same canned backend; peers in environments of their own.

They are installed from the package index once, under .peers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pilotlight_gateway.commands import random_key
from pilotlight_gateway.limits.limit_terms import LimitTerms
from pilotlight_gateway.tenants import tenant_orders
from pilotlight_gateway.tenants.sqlite_store import FILE_NAME, SqliteTenants
from pilotlight_gateway.tenants.tenant_records import TenantSettings
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry, PodsAddress

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".peers"
ROUTER, LITELLM = "vllm-router==0.1.17", "litellm[proxy]==1.106.0"
DIRECT, VLLM_ROUTER, LITELLM_PROXY, OURS = "backend itself", "vllm-router (Rust)", "LiteLLM proxy", "Pilotlight gateway"
LITELLM_KEY = "sk-benchmark"


@dataclass(frozen=True)
class Gateway:
    """`ready` is a path that answers 200."""

    name: str
    argv: tuple[str, ...]
    ready: str
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


def installed(requirement: str) -> Path:
    """The `bin` of an environment that has it."""
    name = requirement.partition("==")[0].partition("[")[0]
    folder = PEERS / requirement.replace("[", "-").replace("]", "").replace("==", "-")
    if not (folder / "installed").exists():
        print(f"installing {requirement} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", requirement], check=True)
        (folder / "installed").write_text(name)
    return folder / "bin"


def ours(port: int, backend: int, folder: Path) -> Gateway:
    """With keys, limits and routing on: every request is a tenant's, and goes the pods' way to the backend."""
    address = PodsAddress(f"http://127.0.0.1:{backend}", "demo.bench.localhost")
    entry = EndpointEntry("bench", "demo", ("demo",), "d", address, pods_ready=1, front="pods")
    (folder / "endpoints.json").write_bytes(msgspec.json.encode(DirectoryAnswer("bench", 1, True, (entry,))))
    store, key = SqliteTenants(folder / FILE_NAME), random_key()
    limits = LimitTerms(requests_per_minute=10**9, tokens_per_minute=10**12, concurrency=10**6)
    if not store.tenants():
        store.change("bench", tenant_orders.create_tenant("bench", TenantSettings(limits=limits), time.time()))
    store.change("bench", tenant_orders.create_key("bench", key, time.time()))
    store.close()
    argv = [sys.executable, "-m", "pilotlight_gateway", "--host=127.0.0.1", f"--port={port}", "--log_level=WARNING"]
    argv += [f"--endpoints={folder / 'endpoints.json'}", f"--state_dir={folder}"]
    return Gateway(OURS, tuple(argv), "/readyz", headers={"authorization": f"Bearer {key.shown}"})


def vllm_router(port: int, backend: int) -> Gateway:
    argv = [str(installed(ROUTER) / "vllm-router"), "--worker-urls", f"http://127.0.0.1:{backend}"]
    argv += ["--policy", "round_robin", "--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    return Gateway(VLLM_ROUTER, (*argv, "--prometheus-port", str(port + 1)), "/health")


def litellm(port: int, backend: int, folder: Path) -> Gateway:
    config = folder / "litellm.json"
    parameters = {"model": "openai/demo", "api_base": f"http://127.0.0.1:{backend}/v1", "api_key": "none"}
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "demo", "litellm_params": parameters}],
                "general_settings": {"master_key": LITELLM_KEY},
                "litellm_settings": {"telemetry": False},
            }
        )
    )
    argv = (str(installed(LITELLM) / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    headers = {"authorization": f"Bearer {LITELLM_KEY}"}
    # Its map of prices comes with it, else it is asked for over the network.
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PATH": os.environ["PATH"]}
    return Gateway(LITELLM_PROXY, argv, "/health/liveliness", headers=headers, env=env)
