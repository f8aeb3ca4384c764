"""Turns one InferenceService document into its predictor and transformer, as KServe 0.20 does in Knative mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pilotlight_specs.component_fields import UNSUPPORTED_COMPONENT_FIELDS, ComponentFields, read_component_fields
from pilotlight_specs.containers import EnvironmentSources, ReadContainer, read_container
from pilotlight_specs.desired import Component, Container, InferenceService, ModelMount, Role
from pilotlight_specs.fields import Fields
from pilotlight_specs.findings import Report
from pilotlight_specs.kpa import KPAConfig
from pilotlight_specs.metadata import Metadata
from pilotlight_specs.pods import (
    UNSUPPORTED_POD_FIELDS,
    make_pod,
    pick_container,
    place_volumes,
    read_volumes,
    storage_from_env,
)
from pilotlight_specs.probes import warn_without_readiness
from pilotlight_specs.runtime_merge import fill_placeholders, merge_containers
from pilotlight_specs.runtimes import NoRuntime, Runtime, select_runtime
from pilotlight_specs.storage import check_uris, model_mounts, read_storage_uris

DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
_KNATIVE_MODES = ("Knative", "Serverless")
_RAW_MODES = ("Standard", "RawDeployment")
_FRAMEWORKS = (
    "sklearn",
    "xgboost",
    "tensorflow",
    "pytorch",
    "triton",
    "onnx",
    "huggingface",
    "pmml",
    "lightgbm",
    "paddle",
)
_MODEL_KEYS = ("modelFormat", "runtime", "runtimeVersion", "protocolVersion", "storageUri", "storage", "confidential")
_PROTOCOLS = ("v1", "v2", "grpc-v1", "grpc-v2")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a component can never start where it is applied: `field` is one of its container's, or `models`."""

    field: Literal["command", "args", "models"]
    reason: str
    arg: str = ""  # the one that is meant, as far as the component got it from the spec


ComponentCheck = Callable[[Component], Iterable[Obstacle]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an InferenceService is resolved against."""

    runtimes: Sequence[Runtime]
    sources: EnvironmentSources
    config: KPAConfig
    check: ComponentCheck


def read_inference_service(document: Fields, metadata: Metadata, around: Surroundings) -> InferenceService | None:
    """The endpoint, or None when the document has errors (all of them are in its report)."""
    report = document.report
    _check_mode(metadata, report)
    spec = document.mapping("spec")
    if spec is None:
        report.error("spec", "required; set it")
        return None
    predictor_fields = spec.mapping("predictor")
    transformer_fields = spec.mapping("transformer")
    spec.finish({"explainer": "explainers do not run here", "canary": "use spec.predictor.canaryTrafficPercent"})
    predictor = transformer = None
    if predictor_fields is None:
        report.error("spec.predictor", "required; set it")
    else:
        predictor = _read_predictor(predictor_fields, metadata, around)
    if transformer_fields is not None:
        transformer = _read_transformer(transformer_fields, metadata, around)
    if report.failed or predictor is None:
        return None
    return InferenceService(metadata.name, metadata.namespace, predictor, transformer)


def _check_mode(metadata: Metadata, report: Report) -> None:
    path = f'metadata.annotations["{DEPLOYMENT_MODE}"]'
    mode = metadata.annotations.get(DEPLOYMENT_MODE)
    if mode is None:
        report.warning(
            path, "not set: a cluster may default to Standard, which has no scale to zero; set it to Knative"
        )
    elif mode in _RAW_MODES:
        report.unsupported(path, f"{mode} has no scale to zero; it runs as Knative here")
    elif mode not in _KNATIVE_MODES:
        report.error(path, f"must be Knative, was {mode!r}")
    if metadata.annotations.get("serving.kserve.io/stop") == "true":
        report.unsupported(
            'metadata.annotations["serving.kserve.io/stop"]', "leave the file out, or delete the endpoint"
        )


def _read_predictor(fields: Fields, metadata: Metadata, around: Surroundings) -> Component | None:
    report = fields.report
    for framework in _FRAMEWORKS:
        if fields.raw(framework) is not None:
            report.error(fields.at(framework), f"write it as spec.predictor.model with modelFormat.name: {framework}")
    model, containers = fields.mapping("model"), fields.mappings("containers")
    if fields.text("name"):
        report.unsupported(fields.at("name"), "the predictor's service is always <name>-predictor here")
    if (model is None) == (not containers):
        report.error(fields.path, "needs exactly one of model and containers")
        return None
    if model is not None:
        runtime, merged = _read_model(model, metadata, around)
        annotations = dict(runtime.annotations) if runtime is not None else {}
        volumes = dict(runtime.volumes) if runtime is not None else {}
        mounts = model_mounts(model)
    else:
        container = pick_container(containers, fields)
        merged = None if container is None else _read_whole(container, metadata, around)
        annotations, volumes, mounts = {}, {}, ()
    return _component("predictor", fields, metadata, around, merged, annotations, volumes, mounts, lambda c, _: c)


def _read_transformer(fields: Fields, metadata: Metadata, around: Surroundings) -> Component | None:
    containers = fields.mappings("containers")
    if not containers:
        fields.report.error(fields.at("containers"), "required; set it")
        return None
    container = pick_container(containers, fields)
    read = None if container is None else _read_whole(container, metadata, around)

    def inject(found: Container, common: ComponentFields) -> Container:
        return _with_transformer_args(found, metadata, common.container_concurrency)

    return _component("transformer", fields, metadata, around, read, {}, {}, (), inject)


def _component(
    role: Role,
    fields: Fields,
    metadata: Metadata,
    around: Surroundings,
    read: ReadContainer | None,
    runtime_annotations: Mapping[str, str],
    runtime_volumes: Mapping[str, bool],
    mounts: tuple[ModelMount, ...],
    inject: Callable[[Container, ComponentFields], Container],
) -> Component | None:
    report = fields.report
    common = read_component_fields(fields, metadata, runtime_annotations, around.config)
    volumes = {**runtime_volumes, **read_volumes(fields)}
    mounts = (*mounts, *read_storage_uris(fields))
    fields.finish({**UNSUPPORTED_POD_FIELDS, **UNSUPPORTED_COMPONENT_FIELDS})
    if read is None or common.scaling is None:
        return None
    empty_dirs = place_volumes(read.volume_mounts, volumes, report)
    container, more = storage_from_env(inject(read.container, common))
    mounts = (*mounts, *more)
    paths = [mount.mount_path for mount in mounts]
    if len(set(paths)) < len(paths):
        report.error(fields.path, f"several models want to lie at the same path: {', '.join(paths)}")
    check_uris(mounts, report, _place(fields, "models"))
    if report.failed:
        return None
    component = Component(
        role=role,
        isvc=metadata.name,
        namespace=metadata.namespace,
        service_name=f"{metadata.name}-{role}",
        pod=make_pod(container, mounts, empty_dirs, metadata.name, common.termination_grace_period_s),
        scaling=common.scaling,
        annotations=common.annotations,
        container_concurrency=common.container_concurrency or 0,
        timeout_s=common.timeout_s,
        canary_traffic_percent=common.canary_traffic_percent,
        progress_deadline_s=common.progress_deadline_s,
    )
    for obstacle in around.check(component):
        report.error(_place(fields, obstacle.field, obstacle.arg), obstacle.reason)
    return component


def _place(fields: Fields, field: str, arg: str = "") -> str:
    """Where a component's `command`, `args` (one of them), or `models` stand in its part of the spec."""
    owner = fields.mapping("model") or next(iter(fields.mappings("containers")), fields)
    if field == "models":
        key = next((key for key in ("storageUri", "storage") if owner.present(key)), "")
        return owner.at(key) if key else fields.at("storageUris") if fields.present("storageUris") else owner.path
    given = owner.data.get("args")
    if arg and isinstance(given, list) and arg in given:
        return f"{owner.at('args')}[{given.index(arg)}]"
    return owner.at(field)


def _read_model(model: Fields, metadata: Metadata, around: Surroundings) -> tuple[Runtime | None, ReadContainer | None]:
    """The chosen runtime and its container merged with the model's."""
    report = model.report
    model_format = model.mapping("modelFormat")
    if model_format is None:
        report.error(model.at("modelFormat"), "required; set it")
        return None, None
    name, version = model_format.required_text("name"), model_format.text("version")
    model_format.finish()
    protocol = model.text("protocolVersion")
    if protocol and protocol not in _PROTOCOLS:
        report.error(model.at("protocolVersion"), f"must be one of {', '.join(_PROTOCOLS)}, was {protocol!r}")
    if model.text("runtimeVersion"):
        report.unsupported(model.at("runtimeVersion"), "no images are pulled here")
    if model.raw("confidential") is not None:
        report.unsupported(model.at("confidential"), "confidential models are not known here")
    # Read once for findings at the places where the user wrote them; the merged container is read silently below.
    read_container(model, metadata.namespace, around.sources, skip=_MODEL_KEYS)
    try:
        runtime = select_runtime(around.runtimes, metadata.namespace, model.text("runtime"), name, version, protocol)
    except NoRuntime as error:
        report.error(model.at("runtime"), str(error))
        return None, None
    if runtime.container is None:
        report.error(model.at("runtime"), f"runtime {runtime.name} has no container named kserve-container")
        return runtime, None
    filled = fill_placeholders(dict(runtime.container), metadata.as_template(), report, model.at("runtime"))
    own = {key: value for key, value in model.data.items() if key not in _MODEL_KEYS}
    merged = merge_containers(filled if isinstance(filled, dict) else {}, own)
    warn_without_readiness(Fields(merged, model.path, report))
    silent = Report(report.source, report.object, report.lines)
    read = read_container(Fields(merged, model.path, silent), metadata.namespace, around.sources)
    if silent.failed and not report.failed:
        report.findings.extend(finding for finding in silent.findings if finding.severity == "error")
    return runtime, read


def _read_whole(container: Fields, metadata: Metadata, around: Surroundings) -> ReadContainer:
    warn_without_readiness(container)
    return read_container(container, metadata.namespace, around.sources)


def _has_arg(args: Sequence[str], flag: str) -> bool:
    return any(arg == flag or arg.startswith(f"{flag}=") for arg in args)


def _with_transformer_args(container: Container, metadata: Metadata, concurrency: int | None) -> Container:
    """What KServe appends to a custom transformer's args, each only when absent."""
    injected = [
        ("--model_name", metadata.name),
        ("--predictor_host", f"{metadata.name}-predictor.{metadata.namespace}"),
        ("--http_port", "8080"),
    ]
    if concurrency is not None:
        injected.append(("--workers", str(concurrency)))
    args = list(container.args)
    for flag, value in injected:
        if not _has_arg(args, flag):
            args += [flag, value]
    return replace(container, args=tuple(args))
