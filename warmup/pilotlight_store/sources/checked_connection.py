"""A connection to an address that was checked, and the parts of a URL it is made from."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from urllib.parse import SplitResult, urlsplit

from pilotlight_protocol.manifest import without_secrets
from pilotlight_store.errors import SourceInvalid, SourceRefused
from pilotlight_store.sources.addresses import AddressRules, permitted


class CheckedConnection(http.client.HTTPConnection):
    """Resolves, checks every address, and connects to a checked one; TLS still verifies the name."""

    def __init__(self, host: str, port: int, rules: AddressRules, timeout_s: float, tls: ssl.SSLContext | None) -> None:
        self.default_port = 80 if tls is None else 443
        super().__init__(host, port, timeout=timeout_s)
        self._rules = rules
        self._tls = tls
        self._wire: socket.socket | None = None

    def connect(self) -> None:
        failure: OSError | None = None
        for address in checked_addresses(self.host, self.port, self._rules):
            try:
                raw = socket.create_connection((address, self.port), self.timeout)
            except OSError as error:
                failure = error
                continue
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._wire = self.sock = raw if self._tls is None else self._tls.wrap_socket(raw, server_hostname=self.host)
            return
        raise failure or OSError("no address")

    def shut(self) -> None:
        """Wake a thread that is blocked in a read; closing alone would not.

        Not `self.sock`: that is gone once an answer says `Connection: close`, while its body is still being read.
        """
        if self._wire is not None:
            with contextlib.suppress(OSError):
                self._wire.shutdown(socket.SHUT_RDWR)


def checked_addresses(host: str, port: int, rules: AddressRules) -> tuple[str, ...]:
    """What `host` resolves to now. Raises SourceRefused where any of it may not be connected to, and OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    checked = permitted(host, port, [str(entry[4][0]) for entry in found], rules)
    if isinstance(checked, str):
        raise SourceRefused(checked)
    return checked


def split_url(url: str) -> SplitResult:
    """Raises SourceInvalid for anything but http(s) with a host and without a password."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        valid = False
    if not valid:
        raise SourceInvalid(f"{without_secrets(url) if valid is not False else 'the address'} is no http(s) URL")
    if parts.username or parts.password:
        raise SourceInvalid(f"{without_secrets(url)}: a password in a URL gets into logs; use a signed URL")
    return parts


def origin_of(parts: SplitResult) -> str:
    """Scheme, host and port: whom a token may be sent to."""
    return f"{parts.scheme}://{parts.hostname}:{port_of(parts)}"


def port_of(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)
