"""An endpoint as its owner is shown it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from pilotlight_gateway.endpoints.cold_starts import ColdStart
from pilotlight_gateway.endpoints.endpoint_orders import spec_of
from pilotlight_gateway.endpoints.endpoint_spec import EndpointSpec
from pilotlight_gateway.usage.usage_report import EndpointUsage
from pilotlight_protocol.endpoint_directory import EndpointEntry
from pilotlight_protocol.endpoint_names import told
from pilotlight_protocol.endpoint_orders import HeldEndpoint, RevisionState

Phase = Literal["Ready", "Starting", "Zero", "Failed"]
"""`Zero` and `Ready` answer at once: without a pod, and by pods. `Starting`: pods are on their way, beside that."""

_PATHS = re.compile(r"(?<![\w:/.-])/(?:[\w.@+-]+/)*[\w.@+-]+")
_STARTING = frozenset({"Mounting", "Starting", "Waiting", "NotReady"})


class ShownEndpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """`url`: OpenAI's base URL; `model`: what to name there. `made_by`: `request` for what can be changed with another
    one, `file` for what whoever runs the server has applied. `reason`: of a phase that is none of the good ones, and
    of a name that means another endpoint.
    `cold_starts` (of this gateway, the latest first) and `usage` (its own tenant's, this month) are told of one that is
    asked for by itself."""

    name: str
    tenant: str
    url: str
    model: str
    phase: Phase
    made_by: Literal["request", "file"]
    reason: str = ""
    models: tuple[str, ...] = ()
    generation: int | None = None
    created_s: float | None = None
    spec: EndpointSpec | None = None
    revisions: tuple[RevisionState, ...] = ()
    cold_starts: tuple[ColdStart, ...] = ()
    usage: EndpointUsage | None = None


class ShownEndpoints(msgspec.Struct, frozen=True):
    endpoints: list[ShownEndpoint]


class DeletedEndpoint(msgspec.Struct, frozen=True):
    """`running`: requests that go on to their end."""

    name: str
    deleted: bool
    running: int


def shown(
    held: HeldEndpoint, entry: EndpointEntry | None, held_by_others: Mapping[str, str], url: str
) -> ShownEndpoint:
    """`entry`: as the gateway routes it now, None where it has not heard of it; `held_by_others`: names that it has and
    that mean another endpoint."""
    revisions = tuple(
        msgspec.structs.replace(revision, reason=without_paths(revision.reason)) for revision in held.revisions
    )
    phase, reason = phase_of(revisions)
    return ShownEndpoint(
        name=held.name,
        tenant=held.namespace,
        url=url,
        model=held.name,
        phase=phase,
        made_by="file" if held.generation is None else "request",
        reason=reason or told(held_by_others),
        models=() if entry is None else entry.model_names,
        generation=held.generation,
        created_s=held.created_s,
        spec=spec_of(held),
        revisions=revisions,
    )


def phase_of(revisions: tuple[RevisionState, ...]) -> tuple[Phase, str]:
    """The worst of its components' latest, since a request needs them all."""
    latest = {revision.component: revision for revision in revisions}
    for wanted, phases in (("Failed", {"Failed"}), ("Starting", _STARTING)):
        for revision in latest.values():
            if revision.phase in phases:
                return ("Failed" if wanted == "Failed" else "Starting"), revision.reason
    is_ready = bool(latest) and all(revision.phase == "Ready" for revision in latest.values())
    return ("Ready" if is_ready else "Zero"), ""


def without_paths(reason: str) -> str:
    """Where something lies on the machine is no business of its tenants; their URIs are."""
    return _PATHS.sub("…", reason)


def base_url(public_url: str, headers: Mapping[str, str]) -> str:
    """Where the one who asks has reached the gateway, unless an operator has said where it is."""
    if public_url:
        return f"{public_url.rstrip('/')}/v1"
    scheme = "https" if headers.get("x-forwarded-proto") == "https" else "http"
    return f"{scheme}://{headers.get('host', 'localhost')}/v1"
