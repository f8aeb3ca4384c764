"""Which network addresses a model may be downloaded from. Pure: an address comes in, a reason to refuse it goes out.

A URI comes from a tenant, and the store runs inside the cluster: without this a "model" at 169.254.169.254 would read
the node's credentials (SSRF). The connection is then made to the very address that was checked, so that a name
that resolves differently the second time (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
# All that IANA has given out for the IPv6 internet. What lies outside embeds or tunnels other addresses (::/96,
# ::ffff:0:0:0/96), is site-local (fec0::/10), or is of no use; Python's `is_global` lets most of that through.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NO_HOSTS = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("3fff::/20"))


@dataclass(frozen=True)
class AddressRules:
    """`allow_private` opens everything; `allowed_hosts` opens `host` or `host:port`, for redirects too."""

    allow_private: bool = False
    allowed_hosts: frozenset[str] = frozenset()

    def opens(self, host: str, port: int) -> bool:
        return (
            self.allow_private or host.lower() in self.allowed_hosts or f"{host.lower()}:{port}" in self.allowed_hosts
        )


def refusal(address: str) -> str | None:
    """Why `address` (IPv4 or IPv6 text, a zone allowed) is not on the public internet, or None when it is."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return f"{address!r} is no IP address"
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and (ip in _NAT64 or ip in _NAT64_LOCAL):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return refusal(str(inner))
        if ip.teredo is not None:
            return f"{ip} is a tunnel"
        if ip not in _GLOBAL_UNICAST:
            return f"{ip} is no public address"
    if ip.is_multicast or not ip.is_global or any(ip in network for network in _NO_HOSTS):
        return f"{ip} is a private, local or reserved address"
    return None


def permitted(host: str, port: int, addresses: Sequence[str], rules: AddressRules) -> tuple[str, ...] | str:
    """The addresses of `host` that may be connected to, or why there is none."""
    if rules.opens(host, port):
        return tuple(addresses)
    reasons = [reason for address in addresses if (reason := refusal(address))]
    if reasons:
        return f"{host} is refused: {reasons[0]}; allow it with --allow-host {host}:{port} if it is yours"
    return tuple(addresses)
