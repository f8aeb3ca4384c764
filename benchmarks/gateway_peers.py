"""The gateways that are compared, each in front of the same canned backend; peers in environments of their own.

They are installed from the package index once, under .peers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

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
