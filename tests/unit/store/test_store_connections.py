"""Where the range reader connects to, seen at the socket module: nothing is opened."""

from __future__ import annotations

import contextlib
import socket

import pytest

from pilotlight_store.errors import SourceRefused, SourceUnavailable
from pilotlight_store.sources.addresses import AddressRules
from pilotlight_store.sources.http_ranges import HttpRanges


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a public address when it is checked and to a private one afterwards (DNS rebinding)."""
    answers = iter(["93.184.215.14", "169.254.169.254", "169.254.169.254"])
    connected: list[object] = []

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(address: object, *_: object) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    with contextlib.closing(HttpRanges(AddressRules())) as ranges:
        with pytest.raises(SourceUnavailable):
            ranges.probe("http://models.example/model/config.json")
        assert connected == [("93.184.215.14", 80)]
        with pytest.raises(SourceRefused, match=r"169\.254\.169\.254"):
            ranges.probe("http://models.example/model/config.json")
    assert connected == [("93.184.215.14", 80)]
