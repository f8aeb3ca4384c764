"""The command line of `python -m pilotlight_pool`, parsed and checked. Reads no environment."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from pilotlight_pool.agent.engine_addresses import parse_ports
from pilotlight_pool.agent.slot_settings import parse_slots
from pilotlight_pool.engine_orders import SlotFacts
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.leases import Isolation

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_NEEDED_BY = {
    "slot": ("both", "agent"),
    "run_dir": ("both", "agent"),
    "agents_listen": ("coordinator",),
    "coordinator": ("agent",),
    "token_file": ("agent", "coordinator"),
}

Role = Literal["both", "agent", "coordinator"]


@dataclass(frozen=True)
class AgentArguments:
    """`coordinator`: `http://host:port` it dials, None in one process. `engine_ports` None: the kernel chooses.
    `model_roots`: where folders are served from; everywhere in one process without lease keys, if none was given."""

    name: str
    slots: tuple[SlotFacts, ...]
    run_dir: Path
    store: Path | None
    model_roots: tuple[Path, ...]
    work_dir: str | None
    engine_host: str | None
    engine_ports: range | None
    coordinator: str | None


@dataclass(frozen=True)
class Arguments:
    """`listen`: `tcp://host:port` or `unix:///path`. `weights`: fair-queueing weights by tenant. `agent` None: it runs
    elsewhere, and dials `agents_listen`. `token_file` is there where the two run apart."""

    role: Role
    listen: str
    agent: AgentArguments | None
    agents_listen: str | None
    token_file: Path | None
    lease_keys: Path | None
    isolation: Isolation
    weights: dict[str, float]
    lease_expires_s: float
    agent_lost_s: float
    keep_alive_price_s: float
    uncontested_keep_s: float
    drain_s: float
    log_level: str


def parse(argv: Sequence[str]) -> Arguments:
    """Raises InvalidInput; exits for --help and unknown flags as argparse does."""
    given = command_line().parse_args(argv)
    role: Role = given.role
    for flag, roles in _NEEDED_BY.items():
        if (getattr(given, flag) in (None, [])) == (role in roles):
            raise InvalidInput(
                f"--{flag} is needed with --role {' or '.join(roles)}, and not otherwise; the role is {role}"
            )
    listen = _address("--listen", given.listen)
    if role != "agent" and given.lease_keys is None and not _is_private(listen):
        raise InvalidInput(f"--listen {listen} is open to the network: give every tenant a key (--lease_keys FILE)")
    return Arguments(
        role=role,
        listen=listen,
        agent=_agent(given) if role != "coordinator" else None,
        agents_listen=_address("--agents_listen", given.agents_listen) if role == "coordinator" else None,
        token_file=given.token_file,
        lease_keys=given.lease_keys,
        isolation=given.isolation,
        weights=dict(_weight(text) for text in given.tenant_weight),
        lease_expires_s=_positive("--lease_expires_s", given.lease_expires_s),
        agent_lost_s=_positive("--agent_lost_s", given.agent_lost_s),
        keep_alive_price_s=given.keep_alive_price_s,
        uncontested_keep_s=given.uncontested_keep_s,
        drain_s=given.drain_s,
        log_level=given.log_level,
    )


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pilotlight_pool", description="Warm engines, lent by the burst.")
    add = parser.add_argument
    add("--role", choices=get_args(Role), default="both", help="one machine: both; a cluster: one coordinator, agents")
    add(
        "--listen",
        default="tcp://127.0.0.1:8090",
        help="tcp://host:port or unix:///path of the lease API; of /healthz and /readyz alone in an agent",
    )
    add("--agents_listen", metavar="tcp://HOST:PORT", help="coordinator: where agents dial in")
    add("--coordinator", metavar="http://HOST:PORT", help="agent: the coordinator's --agents_listen")
    add("--token_file", type=Path, help="file with the secret that agents and coordinator share")
    add("--agent_name", default=socket.gethostname(), help="agent: its own name in the pool; default the host's")
    add("--engine_host", metavar="ADDRESS", help="engines listen on TCP at this address of this node, for other nodes")
    add("--engine_ports", metavar="FIRST-LAST", help="ports for --engine_host; default any")
    add("--slot", action="append", default=[], metavar="DEVICE=MEMORY", help="cpu:0=4GiB, cuda:0=70GiB; repeat it")
    add("--sleepers", type=int, default=0, help="GPU: engines that may sleep in each slot instead of being stopped")
    add("--sleep_memory", default="16GiB", help="GPU: host memory for the weights of a slot's sleeping engines")
    add("--run_dir", type=Path, help="private folder for the engines' sockets; made when missing")
    add("--store", type=Path, help="the model store's folder; without one only folders and bundled:// are served")
    add("--lease_keys", type=Path, help="JSON with tenants' keys (hashed); without it everybody here is trusted")
    add("--model_root", action="append", type=Path, default=[], help="serve model folders below it; repeat it")
    add("--work_dir", help="where engines keep compile caches (default: chosen by the engine host)")
    add("--isolation", choices=get_args(Isolation), default="shared", help="where a lease does not ask for one")
    add("--tenant_weight", action="append", default=[], metavar="TENANT=WEIGHT", help="its share of slots; default 1")
    add("--lease_expires_s", type=float, default=15.0, help="a lease whose holder is silent for so long ends")
    add("--agent_lost_s", type=float, default=15.0, help="engines of an agent that is away for so long count as lost")
    add(
        "--keep_alive_price_s",
        type=float,
        default=300.0,
        help="slot-seconds that one avoided cold start is worth; 0 keeps no idle engine",
    )
    add(
        "--uncontested_keep_s",
        type=float,
        default=3600.0,
        help="how long an idle engine stays in a slot that nobody else wants; 0 stops it when its keep-alive ends",
    )
    add("--drain_s", type=float, default=5.0, help="SIGTERM: how long leases may go on")
    add("--log_level", choices=("debug", "info", "warning", "error"), default="info")
    return parser


def _agent(given: argparse.Namespace) -> AgentArguments:
    apart = given.role == "agent"
    if not _NAME.fullmatch(given.agent_name):
        raise InvalidInput(f"--agent_name {given.agent_name!r}: use letters, digits, '-', '_' and '.'")
    if given.engine_ports is not None and given.engine_host is None:
        raise InvalidInput("--engine_ports are those of --engine_host; give that too")
    trusted = not apart and given.lease_keys is None
    cpus, prefix = len(os.sched_getaffinity(0)), given.agent_name if apart else ""
    slots = parse_slots(given.slot, cpus, given.sleepers, given.sleep_memory, prefix)
    return AgentArguments(
        name=given.agent_name if apart else "local",
        slots=slots,
        run_dir=given.run_dir,
        store=given.store,
        model_roots=tuple(given.model_root) or ((Path("/"),) if trusted else ()),
        work_dir=given.work_dir,
        engine_host=given.engine_host,
        engine_ports=parse_ports(given.engine_ports, len(slots)) if given.engine_ports is not None else None,
        coordinator=_url(given.coordinator) if apart else None,
    )


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme in {"http", "https"} and parts.hostname and parts.path in {"", "/"}:
        return text.rstrip("/")
    raise InvalidInput(f"--coordinator {text!r} is not understood; write for example http://pilotlight-pool:8091")


def _address(flag: str, text: str) -> str:
    if text.startswith("unix:///"):
        return text
    host, colon, port = text.removeprefix("tcp://").rpartition(":")
    if text.startswith("tcp://") and host and colon and port.isdecimal() and int(port) < 65536:
        return text
    raise InvalidInput(f"{flag} {text!r} is not understood; write tcp://127.0.0.1:8090 or unix:///run/pool.sock")


def _is_private(address: str) -> bool:
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return address.startswith("unix://") or host == "localhost"


def _weight(text: str) -> tuple[str, float]:
    tenant, _, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not tenant or not 0.0 < weight < float("inf"):
        raise InvalidInput(f"--tenant_weight {text!r} is not understood; write for example acme=2")
    return tenant, weight


def _positive(name: str, value: float) -> float:
    if not value > 0.0:
        raise InvalidInput(f"{name} is {value:g}; it is a number of seconds above 0")
    return value
