"""What the gateway is told of an endpoint, from its spec and from what its components say their arguments mean. Pure
but for `folder_of`. Must not: ask a component, or know how news travel."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import msgspec

from pilotlight_local.pods.pod_command import leases_engines
from pilotlight_protocol.endpoint_directory import (
    CACHE_SALT_ANNOTATION,
    FRONT_ANNOTATION,
    CacheSalt,
    EndpointEntry,
    Front,
    PodsAddress,
    PredictorMeaning,
    RequestBounds,
    TextFiles,
    TransformerMeaning,
)
from pilotlight_protocol.leases import LeaseRequest
from pilotlight_specs import Component

Meaning = PredictorMeaning | TransformerMeaning
FolderOf = Callable[[str], str | None]
"""The folder of a model that is served where it lies, None for what has to be fetched."""


@dataclass(frozen=True, slots=True)
class RoutedEndpoint:
    """An endpoint as traffic goes now. `is_split`: between revisions, whose shares only its pods keep."""

    namespace: str
    name: str
    predictor: Component
    transformer: Component | None
    is_split: bool
    pods: PodsAddress
    pods_ready: int


def entry_of(
    endpoint: RoutedEndpoint, means: Mapping[Component, Meaning], folder_of: FolderOf, *, has_pool: bool
) -> EndpointEntry:
    entry_component = endpoint.transformer or endpoint.predictor
    predictor = means.get(endpoint.predictor)
    transformer = means.get(endpoint.transformer) if endpoint.transformer is not None else None
    lease = bounds = text = None
    names: tuple[str, ...] = (endpoint.name,)
    if isinstance(predictor, PredictorMeaning):
        names = (predictor.lease.model_name, *(name for name, _ in predictor.lease.loras))
        bounds = predictor.bounds
        if has_pool and leases_engines(endpoint.predictor):
            lease = _lease(predictor.lease, endpoint.predictor, folder_of)
    if isinstance(transformer, TransformerMeaning) and endpoint.transformer is not None:
        names = (transformer.model_name, *transformer.lora_names)
        text = _text(transformer.text, endpoint.transformer, folder_of)
    if lease is not None and lease.model_name != names[0]:
        lease = None
    annotations = dict(entry_component.annotations)
    front = cast(Front, annotations.get(FRONT_ANNOTATION, "auto"))
    entry = EndpointEntry(
        namespace=endpoint.namespace,
        name=endpoint.name,
        model_names=names,
        spec_digest="",
        pods=endpoint.pods,
        timeout_s=float(entry_component.timeout_s),
        front="pods" if endpoint.is_split else front,
        lease=lease,
        text=text,
        bounds=bounds or RequestBounds(),
        is_split=endpoint.is_split,
        cache_salt=cast(CacheSalt, annotations.get(CACHE_SALT_ANNOTATION, "send")),
    )
    digest = hashlib.sha256(msgspec.msgpack.encode(entry)).hexdigest()[:16]
    return msgspec.structs.replace(entry, spec_digest=digest, pods_ready=endpoint.pods_ready)


def _lease(lease: LeaseRequest, component: Component, folder_of: FolderOf) -> LeaseRequest | None:
    model = _outside(lease.model, component, folder_of)
    loras = [(name, _outside(path, component, folder_of)) for name, path in lease.loras]
    if model is None or any(path is None for _, path in loras):
        return None
    known = tuple((name, path) for name, path in loras if path is not None)
    return msgspec.structs.replace(lease, model=model, loras=known)


def _text(text: TextFiles, component: Component, folder_of: FolderOf) -> TextFiles | None:
    model_uri = _outside(text.model_uri, component, folder_of)
    return None if model_uri is None else msgspec.structs.replace(text, model_uri=model_uri)


def _outside(path: str, component: Component, folder_of: FolderOf) -> str | None:
    """What a pod finds at this path: a folder of this machine, or the URI it is fetched from. None for what only the
    pod has, and for a part of what has to be fetched."""
    mounts = sorted(component.pod.mounts, key=lambda mount: len(mount.mount_path), reverse=True)
    for mount in mounts:
        if path.rstrip("/") == mount.mount_path:
            return folder_of(mount.uri) or mount.uri
        if path.startswith(f"{mount.mount_path}/"):
            folder = folder_of(mount.uri)
            return None if folder is None else folder + path[len(mount.mount_path) :]
    if any(f"{path}/".startswith(f"{empty.mount_path}/") for empty in component.pod.empty_dirs):
        return None
    return path
