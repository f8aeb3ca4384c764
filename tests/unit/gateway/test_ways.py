"""Which way a request goes: a table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from endpoint_entries import LEASE, entry

from pilotlight_gateway.ways import WayFacts, choose_way

DEDICATED = msgspec.structs.replace(LEASE, isolation="dedicated")


@pytest.mark.parametrize(
    ("fields", "facts", "way", "wakes", "words"),
    [
        ({}, WayFacts(0), "short", False, "no pod is ready"),
        ({"pods_ready": 2}, WayFacts(0), "short", False, "0 are on it"),
        ({"pods_ready": 2}, WayFacts(15), "short", False, "15 are on it"),
        ({"pods_ready": 2}, WayFacts(16), "pods", False, "16 are on the short way"),
        ({}, WayFacts(16), "short", True, "no pod is ready"),
        ({"front": "shared", "pods_ready": 2}, WayFacts(99), "short", False, "front says so"),
        ({"front": "pods"}, WayFacts(0), "pods", False, "front says so"),
        ({"text": None}, WayFacts(0), "pods", False, "container of its own"),
        ({"lease": None}, WayFacts(0), "pods", False, "engine of its own"),
        ({"front": "shared", "lease": None}, WayFacts(0), "pods", False, "engine of its own"),
        ({"lease": DEDICATED}, WayFacts(0), "pods", False, "dedicated"),
        ({"lease": DEDICATED, "front": "shared"}, WayFacts(0), "short", False, "front says so"),
        ({"pods_ready": 1}, WayFacts(99, makes_tokens=False), "short", False, "no engine is needed"),
    ],
)
def test_a_way_and_its_reason(fields: dict[str, Any], facts: WayFacts, way: str, wakes: bool, words: str) -> None:
    chosen = choose_way(entry("a", **fields), facts)
    assert (chosen.name, chosen.wakes_pods) == (way, wakes)
    assert words in chosen.reason
    assert chosen.header == f"{way}; {chosen.reason}"
