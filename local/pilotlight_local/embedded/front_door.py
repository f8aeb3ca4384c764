"""The gateway beside the embedded platform: one supervised `python -m pilotlight_gateway`, open from start to end.

Must not: know what the gateway decides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pilotlight_local.embedded.supervised_process import ProcessPlan, SupervisedProcess
from pilotlight_local.pods.loopback_ports import LOOPBACK
from pilotlight_local.state_dir import StateDir
from pilotlight_protocol.leases import POOL_URL_VARIABLE
from pilotlight_protocol.model_reference import STORE_VARIABLE


@dataclass(frozen=True)
class FrontDoorSettings:
    """`pool_url`: None without a warm pool. `env`: PATH, and what a download needs. `config`: the gateway's own
    configuration file."""

    state_dir: StateDir
    port: int
    pool_url: str | None
    python: str
    model_store: Path
    allowed_origins: str
    env: Mapping[str, str]
    config: Path | None = None


def front_door(settings: FrontDoorSettings, tell: Callable[[str], None]) -> SupervisedProcess:
    folder = settings.state_dir.gateway

    def prepare() -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.state_dir.gateway_log.parent.mkdir(parents=True, exist_ok=True)
        settings.model_store.mkdir(parents=True, exist_ok=True)

    argv = [
        *(settings.python, "-m", "pilotlight_gateway"),
        f"--host={LOOPBACK}",
        f"--port={settings.port}",
        f"--directory=unix://{settings.state_dir.control_socket}",
        "--auth=from-first-tenant",
        f"--state_dir={folder}",
        f"--allowed_origins={settings.allowed_origins}",
    ]
    if settings.config is not None:
        argv.append(f"--config={settings.config}")
    env = {**settings.env, STORE_VARIABLE: str(settings.model_store)}
    if settings.pool_url is not None:
        env[POOL_URL_VARIABLE] = settings.pool_url
    plan = ProcessPlan("gateway", argv, env, folder, settings.state_dir.gateway_log, prepare)
    return SupervisedProcess(plan, tell)
