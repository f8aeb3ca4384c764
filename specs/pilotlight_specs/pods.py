"""Reads the pod fields beside the containers, and puts container, model mounts and empty directories together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pilotlight_specs.containers import VolumeMount
from pilotlight_specs.desired import CONTAINER_NAME, MODEL_MOUNT_PATH, Container, EmptyDir, EnvVar, ModelMount, PodSpec
from pilotlight_specs.fields import Fields
from pilotlight_specs.findings import Report

STORAGE_URI_ENV = "STORAGE_URI"
INFERENCE_SERVICE_NAME_ENV = "INFERENCE_SERVICE_NAME"

_NO_NODES = "there is one machine, pods are not placed"
_NO_NETWORK = "pods share this machine's loopback network"
_NO_ISOLATION = "the process runs as the user who started the platform"
UNSUPPORTED_POD_FIELDS = {
    "nodeSelector": _NO_NODES,
    "affinity": _NO_NODES,
    "tolerations": _NO_NODES,
    "topologySpreadConstraints": _NO_NODES,
    "schedulerName": _NO_NODES,
    "schedulingGates": _NO_NODES,
    "nodeName": _NO_NODES,
    "priority": _NO_NODES,
    "priorityClassName": _NO_NODES,
    "preemptionPolicy": _NO_NODES,
    "overhead": _NO_NODES,
    "os": _NO_NODES,
    "resources": "no CPU or memory limits are set; processes share the machine",
    "resourceClaims": "no accelerator is assigned; the process sees the machine's",
    "runtimeClassName": "there is no container runtime here",
    "hostname": _NO_NETWORK,
    "hostnameOverride": _NO_NETWORK,
    "subdomain": _NO_NETWORK,
    "setHostnameAsFQDN": _NO_NETWORK,
    "hostAliases": _NO_NETWORK,
    "hostNetwork": _NO_NETWORK,
    "dnsPolicy": _NO_NETWORK,
    "dnsConfig": _NO_NETWORK,
    "hostIPC": _NO_ISOLATION,
    "hostPID": _NO_ISOLATION,
    "hostUsers": _NO_ISOLATION,
    "securityContext": _NO_ISOLATION,
    "serviceAccount": "there is no API server to authenticate to",
    "serviceAccountName": "there is no API server to authenticate to",
    "automountServiceAccountToken": "there is no API server to authenticate to",
    "imagePullSecrets": "no images are pulled here",
    "initContainers": "Knative refuses init containers unless its feature flag is on",
    "restartPolicy": "Knative restarts always",
    "readinessGates": "Knative refuses readiness gates",
    "activeDeadlineSeconds": "Knative pods have no deadline",
    "shareProcessNamespace": "there are no containers to share it",
    "enableServiceLinks": "no service variables are set, as Knative's default",
}


def pick_container(containers: tuple[Fields, ...], owner: Fields) -> Fields | None:
    """The serving container: the only one, or the one named kserve-container. Others are reported, not run."""
    if len(containers) == 1:
        return containers[0]
    serving = [container for container in containers if container.data.get("name") == CONTAINER_NAME]
    if len(serving) != 1:
        owner.report.error(
            owner.at("containers"), f"of {len(containers)} containers exactly one must be named {CONTAINER_NAME}"
        )
        return None
    for container in containers:
        if container is not serving[0]:
            owner.report.unsupported(container.path, "sidecar containers do not run here")
    return serving[0]


def read_volumes(fields: Fields) -> dict[str, bool]:
    """Names of the pod's volumes -> whether the volume is an emptyDir, the only kind that is honoured."""
    volumes: dict[str, bool] = {}
    for volume in fields.mappings("volumes"):
        name = volume.required_text("name")
        kinds = [key for key in volume.data if key != "name"]
        empty_dir = volume.mapping("emptyDir") if "emptyDir" in volume.data else None
        if empty_dir is not None:
            empty_dir.finish(
                {"medium": "it is a directory on disk", "sizeLimit": "the size of the directory is not limited"}
            )
        for kind in kinds:
            if kind != "emptyDir":
                volume.report.unsupported(volume.at(kind), "only emptyDir volumes are mounted here")
        volumes[name] = "emptyDir" in kinds or not kinds
    return volumes


def place_volumes(mounts: Iterable[VolumeMount], volumes: dict[str, bool], report: Report) -> tuple[EmptyDir, ...]:
    """The empty directories among the container's mounts; a mount of no declared volume is an error."""
    placed = []
    for mount in mounts:
        if mount.volume not in volumes:
            report.error(mount.path, f"no volume {mount.volume!r} in this pod")
        elif volumes[mount.volume]:
            placed.append(EmptyDir(mount.volume, mount.mount_path))
        else:
            report.unsupported(mount.path, "only emptyDir volumes are mounted here; the path will not exist")
    return tuple(placed)


def storage_from_env(container: Container) -> tuple[Container, tuple[ModelMount, ...]]:
    """A custom container names its model with the variable STORAGE_URI; KServe mounts it and rewrites the variable."""
    uri = next((variable.value for variable in container.env if variable.name == STORAGE_URI_ENV), "")
    if not uri:
        return container, ()
    return set_env(container, STORAGE_URI_ENV, MODEL_MOUNT_PATH), (ModelMount(uri, MODEL_MOUNT_PATH),)


def set_env(container: Container, name: str, value: str) -> Container:
    """The container with the variable set, in its old place when it was there."""
    if any(variable.name == name for variable in container.env):
        env = tuple(EnvVar(name, value) if variable.name == name else variable for variable in container.env)
    else:
        env = (*container.env, EnvVar(name, value))
    return replace(container, env=env)


def make_pod(
    container: Container,
    mounts: tuple[ModelMount, ...],
    empty_dirs: tuple[EmptyDir, ...],
    isvc: str,
    termination_grace_period_s: int,
) -> PodSpec:
    """The pod that KServe and Knative run: container renamed, service name in its environment."""
    container = set_env(replace(container, name=CONTAINER_NAME), INFERENCE_SERVICE_NAME_ENV, isvc)
    return PodSpec(container, mounts, empty_dirs, termination_grace_period_s)
