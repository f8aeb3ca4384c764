"""Entries of the endpoint directory, for tests of the gateway."""

from __future__ import annotations

from typing import Any

from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry, PodsAddress, TextFiles
from pilotlight_protocol.leases import LeaseRequest

LEASE = LeaseRequest(model="bundled://demo-awq", model_name="m", tenant="team")
TEXT = TextFiles("bundled://demo-awq")


def entry(name: str, namespace: str = "team", **fields: Any) -> EndpointEntry:
    """One on the warm pool, with text of ours."""
    made = {
        "model_names": (name,),
        "spec_digest": "d1",
        "pods": PodsAddress("http://127.0.0.1:9", f"{name}.{namespace}.localhost"),
        "lease": LEASE,
        "text": TEXT,
    }
    return EndpointEntry(namespace, name, **{**made, **fields})


def whole(*entries: EndpointEntry, epoch: str = "e1") -> DirectoryAnswer:
    return DirectoryAnswer(epoch, 1, whole=True, changed=entries)
