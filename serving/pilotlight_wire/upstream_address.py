"""Where an upstream server is: KServe's `--predictor_host`, read. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """`host` is connected to; `authority` is what the Host header says, by which Knative routes."""

    host: str
    port: int
    authority: str
    use_tls: bool = False


def predictor_address(predictor_host: str, *, use_tls: bool) -> UpstreamAddress:
    """Read KServe's `--predictor_host HOST[:PORT]`; a `http://` or `https://` in front is tolerated.

    Names under `.localhost` are the loopback address (RFC 6761), which not every resolver knows. Raises ValueError.
    """
    scheme, separator, rest = predictor_host.rpartition("://")
    if separator:
        use_tls = scheme == "https"
    authority = rest.rstrip("/")
    host, _, port = authority.rpartition(":")
    if not host or (authority.startswith("[") and authority.endswith("]")):
        host, port = authority, ""
    host = host.strip("[]")
    if not host or "/" in host or (":" in host and not _is_ip(host)):
        raise ValueError(f"--predictor_host must be HOST or HOST:PORT, not '{predictor_host}'")
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"--predictor_host has a bad port: '{predictor_host}'")
    local = host == "localhost" or host.endswith(".localhost")
    return UpstreamAddress(
        host="127.0.0.1" if local else host,
        port=int(port) if port else (443 if use_tls else 80),
        authority=authority,
        use_tls=use_tls,
    )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
