"""The lease API's types, for the pool that answers and for holders: what is asked, and what is answered.

A request's unknown fields are refused, so that a misspelt one is not silently ignored; an answer's are passed over, so
that a pool may say more than an older holder knows. Pure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from pilotlight_protocol.swap_proofs import Combination, SwapEvidence, SwapProof, Verdict

Priority = Literal["interactive", "normal", "batch"]
"""`interactive` is never preempted, `normal` only where it was lent beyond its tenant's share, `batch` always may."""

Isolation = Literal["shared", "reset", "dedicated"]
"""`shared`: engines are swapped across tenants. `reset`: a change of tenant gets a fresh process. `dedicated`: the
tenant's process never serves anybody else. That promises a process, not a slot: parked, it may be stopped for another
tenant like any engine, and its memory ends with it."""

POOL_URL_VARIABLE, TENANT_VARIABLE = "PILOTLIGHT_POOL_URL", "PILOTLIGHT_TENANT"
PREWARM_ANNOTATION, PREWARM_VARIABLE = "pilotlight.dev/prewarm", "PILOTLIGHT_PREWARM"
"""A holder's environment says where its pool is, whose it is, and when to be warm, which in a spec is an annotation."""

LONGEST_WAIT_S = 600.0
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
Uri = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Schedule = Annotated[str, msgspec.Meta(max_length=1024)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=LONGEST_WAIT_S)]


class LeaseState(StrEnum):
    """The pool's `policy.leases.lease_lifecycle` says what leads from one to another."""

    QUEUED = "queued"
    PLACING = "placing"
    ACTIVE = "active"
    IDLE = "idle"
    PREEMPTED = "preempted"
    RELEASED = "released"
    EXPIRED = "expired"
    FAILED = "failed"


SERVING = frozenset({LeaseState.ACTIVE, LeaseState.IDLE})
"""The states in which the holder has an engine."""


class LeaseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`deadline_s`: ready by then, or refused. `wait_s`: hold the call until the lease is active, at most so long.

    `tenant` null: the key's, or `default`. `isolation` null: the service's own setting. `quantization`: what the engine
    host is asked for (`auto`, `awq`, …). `prewarm`: the annotation `pilotlight.dev/prewarm` of the endpoint, as in
    `PrewarmRequest.schedule`; null leaves the model's schedule as it is. `adapter`: the URI of a LoRA adapter,
    with which every request of the lease is answered; its engine is shared with other leases that have one. `loras`
    are an engine's own, chosen by each request.
    """

    model: Uri
    model_name: Name
    tenant: Name | None = None
    priority: Priority = "normal"
    deadline_s: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 60.0
    wait_s: Seconds = 0.0
    isolation: Isolation | None = None
    quantization: Name = "auto"
    engine_args: Annotated[dict[Name, str], msgspec.Meta(max_length=64)] = {}
    loras: Annotated[tuple[tuple[Name, Uri], ...], msgspec.Meta(max_length=64)] = ()
    prewarm: Schedule | None = None
    adapter: Annotated[str, msgspec.Meta(max_length=4096)] = ""


class PrewarmRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`tenant` and `isolation`: whose engine it will be, as in a lease. `hold_s`: keep it warm for so long. `schedule`:
    the value of the annotation `pilotlight.dev/prewarm`; it replaces the model's earlier one, and an empty one ends
    it."""

    model: Uri
    model_name: Name
    tenant: Name | None = None
    isolation: Isolation | None = None
    hold_s: Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)] = 900.0
    schedule: Schedule | None = None
    quantization: Name = "auto"
    engine_args: Annotated[dict[Name, str], msgspec.Meta(max_length=64)] = {}
    loras: Annotated[tuple[tuple[Name, Uri], ...], msgspec.Meta(max_length=64)] = ()
    adapter: Annotated[str, msgspec.Meta(max_length=4096)] = ""


class LeaseAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`secret` is in the answer to the POST alone. `endpoint` is there once the state is active or idle.

    `elsewhere`: it has no engine yet, and another lease of its endpoint has one. `content` names the bytes of model and
    adapter that it is answered with: what one lease began may go on with another of the same alone.
    """

    lease_id: Name
    state: LeaseState
    expires_s: float
    path: str = ""
    eta_s: float | None = None
    endpoint: str = ""
    secret: str = ""
    reasons: tuple[str, ...] = ()
    phases_s: dict[str, float] = {}
    elsewhere: bool = False
    content: str = ""


class LeaseLine(msgspec.Struct, frozen=True):
    """One line of `GET /v1/leases`."""

    lease_id: str
    tenant: str
    model: str
    model_name: str
    priority: str
    isolation: str
    state: str
    age_s: float
    slot: str | None
    path: str
    eta_s: float | None
    reasons: tuple[str, ...]


class SlotLine(msgspec.Struct, frozen=True):
    """One line of `GET /v1/slots`. `model` is the digest of what is loaded; `tenant` whom the process has served;
    `absent` why the slot cannot be used now, "" where it can; `swap_path` how its engine's weights are exchanged
    (EngineInfo), "" without an engine."""

    slot: str
    agent: str
    device: str
    memory_bytes: int
    cpus: int
    state: str
    since_s: float
    model: str | None
    fingerprint: str | None
    tenant: str | None
    lease_id: str | None
    busy_left_s: float
    sleeping: tuple[str, ...]
    absent: str
    swap_path: str


class SlotTime(msgspec.Struct, frozen=True):
    """`slot_s`: for how long the tenant's leases of this name held slots, or had them made ready. Leases that share
    one have equal parts of it."""

    tenant: str
    model_name: str
    slot_s: float


class SlotTimesAnswer(msgspec.Struct, frozen=True):
    """`GET /v1/slot_times`, all of it since this pool's start, whose name is `epoch`. What nobody has leased for long
    may be left out, and begins at nothing then."""

    epoch: str
    times: tuple[SlotTime, ...]


class ModelLine(msgspec.Struct, frozen=True):
    """One line of `GET /v1/models`: what was asked for since the start, and where it is."""

    model: str
    key: str
    fingerprint: str
    quantization: str
    weights_bytes: int
    tier: str
    swappable: bool
    loaded_in: tuple[str, ...]
    held_until_s: float | None
    schedule: str


class ProofRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/proofs`: boot both models, swap both ways, compare. `models`: URIs of one architecture; the
    other fields as in a lease request. `wait_s`: how long a slot may take to become idle."""

    models: tuple[Uri, Uri]
    engine_args: dict[str, str] = {}
    quantization: str = "auto"
    wait_s: Seconds = 60.0


class UnprovenLine(msgspec.Struct, frozen=True):
    """Models of one fingerprint that were asked for, and of whose combination no verdict is known. `swapped`: they
    are all the same, as our tests compare them. The other fields as in a lease request."""

    key: str
    name: str
    models: tuple[str, ...]
    engine_args: dict[str, str] = {}
    quantization: str = "auto"
    swapped: bool = False


class ProofLine(msgspec.Struct, frozen=True):
    """A proof, and what a person calls its combination."""

    name: str
    verdict: Verdict
    reason: str
    combination: Combination
    evidence: SwapEvidence


def proof_line(proof: SwapProof) -> ProofLine:
    return ProofLine(proof.combination.name, proof.verdict, proof.reason, proof.combination, proof.evidence)


class ProofsAnswer(msgspec.Struct, frozen=True):
    """`GET /v1/proofs`."""

    proofs: tuple[ProofLine, ...]
    unproven: tuple[UnprovenLine, ...]


class ErrorBody(msgspec.Struct, frozen=True):
    """Of every answer from 400 on."""

    error: str
