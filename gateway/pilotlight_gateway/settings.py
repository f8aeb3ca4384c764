"""The gateway's command line. The environment is an argument."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pilotlight_protocol.deadlines import REQUEST_TIMEOUT_S
from pilotlight_protocol.leases import POOL_URL_VARIABLE
from pilotlight_wire.cors import EVERY_ORIGIN, CorsPolicy, allowed_origins

POOL_KEY_VARIABLE = "PILOTLIGHT_POOL_KEY"
REDIS_URL_VARIABLE = "PILOTLIGHT_REDIS_URL"
_UNIX = "unix://"
Auth = Literal["keys", "open", "from-first-tenant"]
WithoutRedis = Literal["local", "refuse"]


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """`directory`: the platform's control socket; `endpoints`: a file instead. `pool_url`: "" without a warm pool.
    `auth`: who is asked for a key: everybody, nobody, or everybody from the first tenant on.
    `redis_url`: "" for one replica, which keeps limits and named requests in memory; with its secret.
    `limits_without_redis`: while Redis is away, each replica is for itself, or lets nothing in that needs it.
    `config`: what an operator changes while it runs.
    `environment`: the store's settings, and secrets with them."""

    host: str = ""
    port: int = 8000
    directory: Path | None = None
    endpoints: Path | None = None
    pool_url: str = ""
    pool_key: str = field(default="", repr=False)
    auth: Auth = "keys"
    state_dir: Path | None = None
    redis_url: str = field(default="", repr=False)
    limits_without_redis: WithoutRedis = "local"
    cors: CorsPolicy = EVERY_ORIGIN
    max_concurrent_requests: int = 4096
    max_body_bytes: int = 16 * 1024 * 1024
    drain_timeout_s: float = REQUEST_TIMEOUT_S
    text_cache_bytes: int = 1 << 30
    log_level: str = "INFO"
    request_log: float = 1.0
    config: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


def parse_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> GatewaySettings:
    """Exits with a usage message for a value that is wrong."""
    parser = command_line(environment)
    given = parser.parse_args(arguments)
    if (given.directory is None) == (given.endpoints is None):
        parser.error("give --directory, the platform's control socket, or --endpoints, a file")
    if given.directory is not None and not given.directory.startswith(_UNIX):
        parser.error(f"--directory must be {_UNIX}/path, not '{given.directory}'")
    if given.auth != "open" and given.state_dir is None:
        parser.error("give --state_dir, where tenants and keys are kept, or --auth=open")
    return GatewaySettings(
        host=given.host,
        port=given.port,
        directory=None if given.directory is None else Path(given.directory.removeprefix(_UNIX)),
        endpoints=given.endpoints,
        pool_url=given.pool_url,
        pool_key=environment.get(POOL_KEY_VARIABLE, ""),
        auth=given.auth,
        state_dir=given.state_dir,
        redis_url=given.redis_url or environment.get(REDIS_URL_VARIABLE, ""),
        limits_without_redis=given.limits_without_redis,
        cors=given.allowed_origins,
        max_concurrent_requests=given.max_concurrent_requests,
        max_body_bytes=given.max_body_bytes,
        drain_timeout_s=given.drain_timeout_s,
        text_cache_bytes=given.text_cache_mib << 20,
        log_level=given.log_level,
        request_log=given.request_log,
        config=given.config,
        environment=environment,
    )


def command_line(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pilotlight_gateway",
        description="The front door: every endpoint by the name of its model, from zero without a pod.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default="", help="address to listen on; empty for all, IPv6 and IPv4")
    add("--port", type=int, default=8000, help="HTTP/1.1 and gRPC")
    add("--directory", default=None, metavar="URL", help="where the platform tells of its endpoints: unix:///path")
    add("--endpoints", type=Path, default=None, metavar="FILE", help="endpoints from a JSON file, read once")
    add("--config", type=Path, default=None, metavar="FILE", help="YAML, read again when it changes: routes")
    add("--pool_url", default=environment.get(POOL_URL_VARIABLE, ""), help="the warm pool: http(s):// or unix:///path")
    add("--auth", default="keys", choices=get_args(Auth), help="who is asked for a key")
    add("--state_dir", type=Path, default=None, help="where tenants, keys and budgets are kept")
    add(
        "--redis_url",
        default="",
        metavar="URL",
        help="what replicas share limits, named requests and responses by: redis(s):// or unix://",
    )
    add(
        "--limits_without_redis",
        default="local",
        choices=get_args(WithoutRedis),
        help="while Redis is away: each replica is for itself, or refuses",
    )
    add("--allowed_origins", type=allowed_origins, default="*", help="web origins that may call, or '' for none")
    add("--max_concurrent_requests", type=int, default=4096, help="requests in flight")
    add("--max_body_bytes", type=int, default=16 * 1024 * 1024, help="largest request body, unpacked")
    add(
        "--text_cache_mib",
        type=int,
        default=1024,
        help="memory for tokenizers and templates, three quarters in processes of their own",
    )
    add("--drain_timeout_s", type=float, default=REQUEST_TIMEOUT_S, help="for requests in flight after SIGTERM")
    add(
        "--request_log",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="of answered requests, for a line each on standard output; failed ones have theirs unless it is 0",
    )
    add("--log_level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.epilog = (
        f"The pool's lease key is read from ${POOL_KEY_VARIABLE}, the URL of Redis also from ${REDIS_URL_VARIABLE}, "
        "where its password is not seen by who lists processes."
    )
    return parser


def _share(text: str) -> float:
    share = float(text)
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError("a share is a number from 0 to 1")
    return share
