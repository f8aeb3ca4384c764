"""ServingRuntimes: reading them and choosing one for a model, as KServe 0.20 does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pilotlight_specs.containers import EnvironmentSources, read_container
from pilotlight_specs.desired import CONTAINER_NAME
from pilotlight_specs.fields import Fields
from pilotlight_specs.pods import UNSUPPORTED_POD_FIELDS, read_volumes

_PROTOCOL_ORDER = {"v1": 1, "v2": 2, "grpc-v1": 3, "grpc-v2": 4}
_UNKNOWN_PROTOCOL = -1


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """A model format that a runtime supports."""

    name: str
    version: str
    auto_select: bool
    priority: int | None


@dataclass(frozen=True, slots=True)
class Runtime:
    """A ServingRuntime, or a ClusterServingRuntime (no namespace). `container` is its serving container, unread."""

    name: str
    namespace: str
    formats: tuple[ModelFormat, ...]
    protocols: tuple[str, ...]
    disabled: bool
    multi_model: bool
    container: Mapping[str, object] | None
    volumes: tuple[tuple[str, bool], ...]
    annotations: tuple[tuple[str, str], ...]

    def supports(self, name: str, version: str, *, explicit: bool) -> bool:
        """Whether the format fits. Without `explicit` only formats with autoSelect count (KServe)."""
        return any(
            item.name == name and version in ("", item.version) for item in self.formats if explicit or item.auto_select
        )

    def speaks(self, protocol: str) -> bool:
        return not protocol or not self.protocols or protocol in self.protocols

    def priority(self, format_name: str) -> int | None:
        return next((item.priority for item in self.formats if item.name == format_name), None)


class NoRuntime(ValueError):
    """No runtime fits; the message says which were looked at."""


def read_runtime(document: Fields, name: str, namespace: str, sources: EnvironmentSources) -> Runtime:
    """Read one ServingRuntime or ClusterServingRuntime document; findings go to the document's report."""
    spec = document.mapping("spec")
    if spec is None:
        document.report.error("spec", "required; set it")
        return Runtime(name, namespace, (), (), True, False, None, (), ())
    formats = tuple(_read_format(item) for item in spec.mappings("supportedModelFormats"))
    protocols = spec.texts("protocolVersions")
    for protocol in protocols:
        if protocol not in _PROTOCOL_ORDER:
            spec.report.error(spec.at("protocolVersions"), f"must be of {', '.join(_PROTOCOL_ORDER)}, was {protocol!r}")
    serving = None
    for container in spec.mappings("containers"):
        if container.data.get("name") == CONTAINER_NAME:
            serving = container
            read_container(container, namespace, sources)
        else:
            container.report.unsupported(container.path, f"only {CONTAINER_NAME} runs here")
    if serving is None:
        spec.report.error(spec.at("containers"), f"a serving runtime needs a container named {CONTAINER_NAME}")
    runtime = Runtime(
        name=name,
        namespace=namespace,
        formats=formats,
        protocols=protocols,
        disabled=spec.boolean("disabled"),
        multi_model=spec.boolean("multiModel"),
        container=None if serving is None else serving.data,
        volumes=tuple(read_volumes(spec).items()),
        annotations=tuple(spec.text_map("annotations").items()),
    )
    spec.text_map("labels")
    model_mesh = "belongs to ModelMesh, which is not here"
    spec.finish(
        {key: UNSUPPORTED_POD_FIELDS[key] for key in ("affinity", "nodeSelector", "tolerations", "imagePullSecrets")}
        | {key: UNSUPPORTED_POD_FIELDS[key] for key in ("schedulerName", "hostIPC", "resourceClaims")}
        | dict.fromkeys(
            ("builtInAdapter", "grpcDataEndpoint", "grpcEndpoint", "httpDataEndpoint", "replicas", "storageHelper"),
            model_mesh,
        )
        | {"workerSpec": "multi-node pods do not run here"}
    )
    return runtime


def _read_format(item: Fields) -> ModelFormat:
    found = ModelFormat(
        name=item.required_text("name"),
        version=item.text("version"),
        auto_select=item.boolean("autoSelect"),
        priority=item.integer("priority", 1, 2**31 - 1),
    )
    item.finish()
    return found


def select_runtime(
    runtimes: Sequence[Runtime], namespace: str, explicit: str, format_name: str, version: str, protocol: str
) -> Runtime:
    """KServe's choice. A runtime of the namespace beats a cluster runtime. Raises NoRuntime with what to change.

    `explicit` is `model.runtime` (empty: choose by format, version, autoSelect, protocol and priority).
    """
    local = [runtime for runtime in runtimes if runtime.namespace == namespace]
    cluster = [runtime for runtime in runtimes if not runtime.namespace]
    wanted = f"model format {format_name!r}" + (f" version {version!r}" if version else "")
    if explicit:
        runtime = next((item for item in (*local, *cluster) if item.name == explicit), None)
        if runtime is None:
            raise NoRuntime(
                f"no ServingRuntime {namespace}/{explicit} and no ClusterServingRuntime {explicit} in the applied files"
            )
        if runtime.disabled:
            raise NoRuntime(f"runtime {explicit} is disabled")
        if not runtime.speaks(protocol):
            raise NoRuntime(f"runtime {explicit} does not speak {protocol}, only {', '.join(runtime.protocols)}")
        if not runtime.supports(format_name, version, explicit=True):
            raise NoRuntime(f"runtime {explicit} does not support {wanted}")
        return runtime
    # Without protocolVersion KServe assumes v1 when it chooses by itself.
    spoken = protocol or "v1"
    for group in (local, cluster):
        fitting = [
            runtime
            for runtime in group
            if not runtime.disabled
            and not runtime.multi_model
            and runtime.supports(format_name, version, explicit=False)
            and runtime.speaks(spoken)
        ]
        if fitting:
            return min(fitting, key=lambda runtime: _preference(runtime, format_name))
    known = ", ".join(sorted(runtime.name for runtime in (*local, *cluster))) or "none"
    assumed = "" if protocol else " (KServe assumes v1 when model.protocolVersion is not set)"
    raise NoRuntime(
        f"no runtime with autoSelect supports {wanted} over protocol {spoken}{assumed}; applied runtimes: {known}. "
        "Set model.runtime, or apply a runtime that does"
    )


def _preference(runtime: Runtime, format_name: str) -> tuple[bool, int, int, str]:
    priority = runtime.priority(format_name)
    protocols = [_PROTOCOL_ORDER.get(protocol, _UNKNOWN_PROTOCOL) for protocol in runtime.protocols]
    return priority is None, -(priority or 0), min(protocols, default=_UNKNOWN_PROTOCOL), runtime.name
