"""The command line of `python -m pilotlight_warmup`, parsed and checked. Reads no environment."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pilotlight_protocol.errors import InvalidInput

from pilotlight_warmup.policy.lease_terms import Isolation


@dataclass(frozen=True)
class Arguments:
    """`listen`: `tcp://host:port` or `unix:///path`. `weights`: fair-queueing weights by tenant. `model_roots`: where
    folders are served from; everywhere when there are no lease keys and none was given."""

    listen: str
    slots: tuple[str, ...]
    sleepers: int
    sleep_memory: str
    run_dir: Path
    store: Path | None
    lease_keys: Path | None
    model_roots: tuple[Path, ...]
    work_dir: str | None
    isolation: Isolation
    weights: dict[str, float]
    lease_expires_s: float
    keep_alive_price_s: float
    drain_s: float
    log_level: str


def parse(argv: Sequence[str]) -> Arguments:
    """Raises InvalidInput; exits for --help and unknown flags as argparse does."""
    given = _parser().parse_args(argv)
    listen = _address(given.listen)
    if given.lease_keys is None and not _is_private(listen):
        raise InvalidInput(f"--listen {listen} is open to the network: give every tenant a key (--lease_keys FILE)")
    roots = tuple(given.model_root)
    return Arguments(
        listen=listen,
        slots=tuple(given.slot),
        sleepers=given.sleepers,
        sleep_memory=given.sleep_memory,
        run_dir=given.run_dir,
        store=given.store,
        lease_keys=given.lease_keys,
        model_roots=roots if roots or given.lease_keys is not None else (Path("/"),),
        work_dir=given.work_dir,
        isolation=given.isolation,
        weights=dict(_weight(text) for text in given.tenant_weight),
        lease_expires_s=_positive("--lease_expires_s", given.lease_expires_s),
        keep_alive_price_s=given.keep_alive_price_s,
        drain_s=given.drain_s,
        log_level=given.log_level,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pilotlight_warmup", description="Warm engines, lent by the burst.")
    add = parser.add_argument
    add("--listen", default="tcp://127.0.0.1:8090", help="tcp://host:port or unix:///path of the lease API")
    add("--slot", action="append", required=True, metavar="DEVICE=MEMORY", help="cpu:0=4GiB, cuda:0=70GiB; repeat it")
    add("--sleepers", type=int, default=0, help="GPU: engines that may sleep in each slot instead of being stopped")
    add("--sleep_memory", default="16GiB", help="GPU: host memory for the weights of a slot's sleeping engines")
    add("--run_dir", type=Path, required=True, help="private folder for the engines' sockets; made when missing")
    add("--store", type=Path, help="the model store's folder; without one only folders and bundled:// are served")
    add("--lease_keys", type=Path, help="JSON with tenants' keys (hashed); without it everybody here is trusted")
    add("--model_root", action="append", type=Path, default=[], help="serve model folders below it; repeat it")
    add("--work_dir", help="where engines keep compile caches (default: chosen by the engine host)")
    add("--isolation", choices=get_args(Isolation), default="shared", help="where a lease does not ask for one")
    add("--tenant_weight", action="append", default=[], metavar="TENANT=WEIGHT", help="its share of slots; default 1")
    add("--lease_expires_s", type=float, default=15.0, help="a lease whose holder is silent for so long ends")
    add(
        "--keep_alive_price_s",
        type=float,
        default=300.0,
        help="slot-seconds that one avoided cold start is worth; 0 keeps no idle engine",
    )
    add("--drain_s", type=float, default=5.0, help="SIGTERM: how long leases may go on")
    add("--log_level", choices=("debug", "info", "warning", "error"), default="info")
    return parser


def _address(text: str) -> str:
    if text.startswith("unix:///"):
        return text
    host, colon, port = text.removeprefix("tcp://").rpartition(":")
    if text.startswith("tcp://") and host and colon and port.isdecimal() and int(port) < 65536:
        return text
    raise InvalidInput(f"--listen {text!r} is not understood; write tcp://127.0.0.1:8090 or unix:///run/pool.sock")


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
