"""What the gateway orders of a platform: endpoints that its callers ask for, and what became of them. Pure.

    GET     /services?namespace=        -> HeldEndpoints     all of the platform's, of one namespace or of every one
    PUT     /services/{namespace}/{name}    ApplyOrder -> 200 Applied, 409 or 422 NotApplied
    DELETE  /services/{namespace}/{name}?generation= -> 200 Deleted, 409 NotApplied

What was applied by files is shown and never changed this way. `place` in an answer says where the news of the change
stand in the directory (`endpoint_directory`): who has heard of that knows the change.
"""

from __future__ import annotations

from typing import Any

import msgspec

NEW = 0
"""The generation of what is not there yet."""


class NewsPlace(msgspec.Struct, frozen=True):
    """A place in the directory's news: everything up to `version` of this `epoch`."""

    epoch: str
    version: int


class ApplyOrder(msgspec.Struct, frozen=True):
    """An InferenceService as `kubectl apply` takes it. `spec`: what it was made of, kept beside it and not read.
    `generation`: the one that it replaces, `NEW` for none."""

    manifest: dict[str, Any]
    spec: msgspec.Raw
    generation: int


class Refusal(msgspec.Struct, frozen=True):
    """What is wrong with the manifest, and where: `spec.predictor.maxReplicas`."""

    path: str
    reason: str


class Applied(msgspec.Struct, frozen=True):
    generation: int
    place: NewsPlace


class NotApplied(msgspec.Struct, frozen=True):
    """`refused`: what keeps it from ever starting (422). Else there is another generation (409)."""

    refused: tuple[Refusal, ...] = ()


class Deleted(msgspec.Struct, frozen=True):
    """`running`: requests that go on to their end."""

    deleted: bool
    place: NewsPlace
    running: int = 0


class RevisionState(msgspec.Struct, frozen=True):
    """A revision of one component, as `pilotlight status` shows it."""

    component: str
    revision: str
    phase: str
    ready: int
    desired: int
    running: int
    queued: int
    reason: str = ""


class HeldEndpoint(msgspec.Struct, frozen=True):
    """`generation`, `created_s` (since the epoch) and `spec` are of what was ordered; None and null of the others."""

    namespace: str
    name: str
    revisions: tuple[RevisionState, ...] = ()
    generation: int | None = None
    created_s: float | None = None
    spec: msgspec.Raw = msgspec.Raw(b"null")


class HeldEndpoints(msgspec.Struct, frozen=True):
    endpoints: tuple[HeldEndpoint, ...]
