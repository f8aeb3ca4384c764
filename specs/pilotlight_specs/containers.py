"""Reads one container of a pod: command, args, env, port, probes, mounts. Reports what a process cannot honour.

No I/O is done here: ConfigMaps and Secrets come from the applied files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pilotlight_specs.desired import CONTAINER_NAME, DEFAULT_PORT, Container, EnvVar
from pilotlight_specs.fields import Fields
from pilotlight_specs.probes import read_liveness, read_readiness, read_startup

_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_KNATIVE_ENV = ("PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION")
_UNSUPPORTED = {
    "securityContext": "the process runs as the user who started the platform",
    "lifecycle": "Knative refuses lifecycle hooks",
    "terminationMessagePath": "the log's last lines are shown instead",
    "terminationMessagePolicy": "the log's last lines are shown instead",
    "volumeDevices": "no block devices here",
    "stdin": "pods have no standard input",
    "stdinOnce": "pods have no standard input",
    "tty": "pods have no terminal",
    "restartPolicy": "Knative has no init containers with a restart policy",
    "restartPolicyRules": "Knative restarts always",
    "resizePolicy": "processes have no resource limits here",
}


@dataclass(frozen=True, slots=True)
class EnvironmentSources:
    """The ConfigMaps and Secrets of the applied files: (namespace, name) -> key -> value."""

    config_maps: Mapping[tuple[str, str], Mapping[str, str]]
    secrets: Mapping[tuple[str, str], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume mount as written, with its path in the document for findings."""

    volume: str
    mount_path: str
    path: str


@dataclass(frozen=True, slots=True)
class ReadContainer:
    """A container and the volumes that it mounts."""

    container: Container
    volume_mounts: tuple[VolumeMount, ...]


def read_container(
    fields: Fields, namespace: str, sources: EnvironmentSources, *, skip: tuple[str, ...] = ()
) -> ReadContainer:
    """Read `fields`; keys in `skip` belong to someone else (the model's own keys beside the container's)."""
    for key in skip:
        fields.raw(key)
    name = fields.text("name") or CONTAINER_NAME
    port, protocol = _read_port(fields)
    container = Container(
        name=name,
        image=fields.text("image"),
        command=fields.texts("command"),
        args=fields.texts("args"),
        env=_read_env(fields, namespace, sources),
        working_dir=fields.text("workingDir"),
        port=port,
        protocol=protocol,
        readiness=read_readiness(fields, port),
        liveness=read_liveness(fields, port),
        startup=read_startup(fields, port),
    )
    _report_resources(fields)
    mounts = _read_volume_mounts(fields)
    # Like the image itself: the command runs from this installation.
    fields.raw("imagePullPolicy")
    fields.finish(_UNSUPPORTED)
    return ReadContainer(container, mounts)


def _read_port(fields: Fields) -> tuple[int, Literal["http1", "h2c"]]:
    ports = fields.mappings("ports")
    if len(ports) > 1:
        fields.report.error(fields.at("ports"), f"Knative allows one container port, there are {len(ports)}")
    port, protocol = DEFAULT_PORT, "http1"
    for entry in ports:
        port = entry.integer("containerPort", 1, 65535) or DEFAULT_PORT
        protocol = entry.text("name") or "http1"
        if protocol not in ("http1", "h2c", "user-port"):
            entry.report.error(entry.at("name"), f"Knative allows h2c, http1 or no name, was {protocol!r}")
        if entry.text("protocol", "TCP") != "TCP":
            entry.report.error(entry.at("protocol"), "must be TCP")
        entry.finish({"hostPort": "Knative refuses host ports", "hostIP": "Knative refuses host ports"})
    return port, "h2c" if protocol == "h2c" else "http1"


def _read_env(fields: Fields, namespace: str, sources: EnvironmentSources) -> tuple[EnvVar, ...]:
    found: dict[str, EnvVar] = {}
    for source in fields.mappings("envFrom"):
        for variable in _read_env_from(source, namespace, sources):
            found[variable.name] = variable
    for entry in fields.mappings("env"):
        name = entry.required_text("name")
        if name and not _ENV_NAME.fullmatch(name):
            entry.report.error(entry.at("name"), f"must match {_ENV_NAME.pattern}, was {name!r}")
        if name in _KNATIVE_ENV:
            entry.report.error(entry.at("name"), f"{name} is reserved, Knative sets it")
        if name == "PYTHONPATH":
            entry.report.warning(entry.at("name"), "PYTHONPATH belongs to the image; install the package in it instead")
        value: str | None = entry.text("value")
        reference = entry.mapping("valueFrom")
        if reference is not None:
            value = _read_reference(reference, namespace, sources)
        entry.finish()
        if value is not None and name:
            # A later entry of the same name wins, in the place of the later one, as in Kubernetes.
            found.pop(name, None)
            found[name] = EnvVar(name, value)
    return tuple(found.values())


def _read_reference(reference: Fields, namespace: str, sources: EnvironmentSources) -> str | None:
    value: str | None = None
    for key, kind, objects in (
        ("configMapKeyRef", "ConfigMap", sources.config_maps),
        ("secretKeyRef", "Secret", sources.secrets),
    ):
        selector = reference.mapping(key)
        if selector is None:
            continue
        name, entry = selector.required_text("name"), selector.required_text("key")
        optional = selector.boolean("optional")
        selector.finish()
        value = objects.get((namespace, name), {}).get(entry)
        if value is None and not optional and name and entry:
            selector.report.error(
                selector.path, f"no key {entry!r} in a {kind} {namespace}/{name} of the applied files; apply it too"
            )
    reason = "Knative refuses it unless its feature flag is on, and it is not known here"
    reference.finish({"fieldRef": reason, "resourceFieldRef": reason, "fileKeyRef": reason})
    return value


def _read_env_from(source: Fields, namespace: str, sources: EnvironmentSources) -> tuple[EnvVar, ...]:
    prefix = source.text("prefix")
    found: list[EnvVar] = []
    for key, kind, objects in (
        ("configMapRef", "ConfigMap", sources.config_maps),
        ("secretRef", "Secret", sources.secrets),
    ):
        selector = source.mapping(key)
        if selector is None:
            continue
        name, optional = selector.required_text("name"), selector.boolean("optional")
        selector.finish()
        content = objects.get((namespace, name))
        if content is None and not optional:
            selector.report.error(selector.path, f"no {kind} {namespace}/{name} in the applied files; apply it too")
        found.extend(EnvVar(prefix + entry, value) for entry, value in (content or {}).items())
    source.finish()
    return tuple(found)


def _read_volume_mounts(fields: Fields) -> tuple[VolumeMount, ...]:
    found = []
    for mount in fields.mappings("volumeMounts"):
        name, mount_path = mount.required_text("name"), mount.required_text("mountPath")
        mount.boolean("readOnly")
        if mount_path and not mount_path.startswith("/"):
            mount.report.error(mount.at("mountPath"), f"must be an absolute path, was {mount_path!r}")
        mount.finish(
            dict.fromkeys(("subPath", "subPathExpr", "mountPropagation", "recursiveReadOnly"), "not known here")
        )
        found.append(VolumeMount(name, mount_path.rstrip("/") or "/", mount.path))
    return tuple(found)


def _report_resources(fields: Fields) -> None:
    resources = fields.mapping("resources")
    if resources is None:
        return
    accelerators = set()
    for key in ("requests", "limits"):
        amounts = resources.mapping(key)
        if amounts is None:
            continue
        for name in amounts.data:
            if "/" in name and name not in accelerators:
                accelerators.add(name)
                amounts.report.unsupported(
                    amounts.at(name), "no accelerator is assigned; the process sees the machine's"
                )
    resources.report.unsupported(resources.path, "no CPU or memory limits are set; processes share the machine")
    resources.raw("claims")
    resources.finish()
