"""Reads what predictor and transformer have in common: replicas, concurrency, timeout, canary, annotations.

Turns them into the annotations that KServe puts on the Knative Service, and these into a ScalingSpec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from pilotlight_protocol.adapters import ADAPTER_ANNOTATION
from pilotlight_protocol.endpoint_directory import CACHE_SALT_ANNOTATION, FRONT_ANNOTATION, CacheSalt, Front
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.leases import PREWARM_ANNOTATION
from pilotlight_protocol.model_reference import parse_model_reference
from pilotlight_protocol.nearest_name import did_you_mean
from pilotlight_specs.fields import Fields, join_path
from pilotlight_specs.kpa import KNOWN_KEYS, InvalidScaling, KPAConfig, ScalingSpec, parse_duration_s, resolve_scaling
from pilotlight_specs.metadata import Metadata

AUTOSCALING = "autoscaling.knative.dev"
PILOTLIGHT = "pilotlight.dev"
PROGRESS_DEADLINE = "serving.knative.dev/progress-deadline"
DEFAULT_PROGRESS_DEADLINE_S = 600.0
DEFAULT_MIN_REPLICAS = 1
DEFAULT_TIMEOUT_S = 300
MAX_TIMEOUT_S = 600  # Knative's max-revision-timeout-seconds
MAX_CONTAINER_CONCURRENCY = 1000  # Knative's container-concurrency-max-limit
MAX_INT32 = 2**31 - 1

# KServe does not pass these on to the Knative Service: they come from the component's fields or from kubectl.
_NOT_PROPAGATED = {
    f"{AUTOSCALING}/min-scale": "minReplicas",
    f"{AUTOSCALING}/minScale": "minReplicas",
    f"{AUTOSCALING}/max-scale": "maxReplicas",
    f"{AUTOSCALING}/maxScale": "maxReplicas",
    "kubectl.kubernetes.io/last-applied-configuration": "",
}
_KNOWN_ANNOTATIONS = {
    AUTOSCALING: KNOWN_KEYS,
    PILOTLIGHT: frozenset({ADAPTER_ANNOTATION, CACHE_SALT_ANNOTATION, FRONT_ANNOTATION, PREWARM_ANNOTATION}),
}
_WORDS: Mapping[str, tuple[str, ...]] = {
    CACHE_SALT_ANNOTATION: get_args(CacheSalt),
    FRONT_ANNOTATION: get_args(Front),
}
_OF_THE_ENDPOINT = {
    ADAPTER_ANNOTATION: "predictor and transformer must have the same adapter",
    CACHE_SALT_ANNOTATION: "it says how the whole endpoint is reached",
    FRONT_ANNOTATION: "it says how the whole endpoint is reached",
}
UNSUPPORTED_COMPONENT_FIELDS = {
    "autoScaling": "it configures KEDA and HPA, which Knative mode does not use",
    "scaleMetricType": "it configures KEDA and HPA, which Knative mode does not use",
    "deploymentStrategy": "it is for raw deployments",
    "batcher": "the batching agent does not run here",
    "logger": "the logging agent does not run here",
    "workerSpec": "multi-node pods do not run here",
    "storageContainerName": "models are mounted by the platform itself",
}


@dataclass(frozen=True, slots=True)
class ComponentFields:
    """The common part of a component."""

    annotations: tuple[tuple[str, str], ...]
    scaling: ScalingSpec | None  # None: it has errors
    container_concurrency: int | None
    timeout_s: int
    canary_traffic_percent: int | None
    progress_deadline_s: float
    termination_grace_period_s: int


def read_component_fields(
    fields: Fields, metadata: Metadata, runtime_annotations: Mapping[str, str], config: KPAConfig
) -> ComponentFields:
    """Read the common fields of `spec.predictor` or `spec.transformer`."""
    report = fields.report
    own = fields.text_map("annotations")
    fields.text_map("labels")
    concurrency = fields.integer("containerConcurrency", 0, MAX_CONTAINER_CONCURRENCY)
    timeout_s = fields.integer("timeout", 1, MAX_INT32) or DEFAULT_TIMEOUT_S
    if timeout_s > MAX_TIMEOUT_S:
        report.warning(
            fields.at("timeout"),
            f"Knative refuses more than max-revision-timeout-seconds ({MAX_TIMEOUT_S}) unless that is raised",
        )
    grace_s = fields.integer("terminationGracePeriodSeconds", 0, MAX_INT32)
    if grace_s is not None:
        report.warning(
            fields.at("terminationGracePeriodSeconds"), "Knative refuses it on a cluster and uses the timeout instead"
        )
    annotations = dict(runtime_annotations)
    annotations.update(_propagated(metadata.annotations, Fields(metadata.annotations, "metadata.annotations", report)))
    annotations.update(_propagated(own, Fields(own, fields.at("annotations"), report)))
    for annotation, why in _OF_THE_ENDPOINT.items():
        if annotation in own:
            report.error(join_path(fields.at("annotations"), annotation), f"write it in metadata.annotations: {why}")
    annotations.update(_scale_annotations(fields))
    deadline_s = _progress_deadline(annotations, fields)
    scaling = None
    try:
        scaling = resolve_scaling(annotations, concurrency or 0, config, deadline_s)
    except InvalidScaling as error:
        for problem in error.problems:
            report.error(fields.path, problem)
    return ComponentFields(
        annotations=tuple(sorted(annotations.items())),
        scaling=scaling,
        container_concurrency=concurrency,
        timeout_s=timeout_s,
        canary_traffic_percent=fields.integer("canaryTrafficPercent", 0, 100),
        progress_deadline_s=deadline_s,
        termination_grace_period_s=timeout_s if grace_s is None else grace_s,
    )


def _propagated(annotations: Mapping[str, str], fields: Fields) -> dict[str, str]:
    kept = {}
    for key, value in annotations.items():
        if key in _NOT_PROPAGATED:
            if _NOT_PROPAGATED[key]:
                fields.report.warning(fields.at(key), f"KServe overwrites it; set {_NOT_PROPAGATED[key]} instead")
            continue
        group = key.partition("/")[0]
        known = _KNOWN_ANNOTATIONS.get(group)
        if known is not None and key not in known:
            fields.report.unknown(fields.at(key), did_you_mean(key, known) or f"; {group}/ has no such annotation")
        if key == ADAPTER_ANNOTATION:
            _check_adapter(value, fields)
        words = _WORDS.get(key)
        if words is not None and value not in words:
            fields.report.error(fields.at(key), f"must be one of {', '.join(words)}, was {value!r}")
        kept[key] = value
    return kept


def _check_adapter(uri: str, fields: Fields) -> None:
    try:
        parse_model_reference(uri)
    except InvalidInput as error:
        fields.report.error(fields.at(ADAPTER_ANNOTATION), f"must be the URI of a LoRA adapter: {error.message}")


def _scale_annotations(fields: Fields) -> dict[str, str]:
    found = {}
    least = fields.integer("minReplicas", 0, MAX_INT32)
    most = fields.integer("maxReplicas", 0, MAX_INT32)
    least = DEFAULT_MIN_REPLICAS if least is None else least
    if most and most < least:
        fields.report.error(fields.at("maxReplicas"), f"must be at least minReplicas ({least}), was {most}")
        most = least
    found[f"{AUTOSCALING}/min-scale"] = str(least)
    if most:
        found[f"{AUTOSCALING}/max-scale"] = str(most)
    target = fields.integer("scaleTarget", 1, MAX_INT32)
    if target is not None:
        found[f"{AUTOSCALING}/target"] = str(target)
    metric = fields.text("scaleMetric")
    if metric in ("cpu", "memory"):
        fields.report.unsupported(fields.at("scaleMetric"), f"{metric} needs the HPA; concurrency is used here")
    elif metric in ("concurrency", "rps"):
        found[f"{AUTOSCALING}/metric"] = metric
    elif metric:
        fields.report.error(fields.at("scaleMetric"), f"must be cpu, memory, concurrency or rps, was {metric!r}")
    return found


def _progress_deadline(annotations: Mapping[str, str], fields: Fields) -> float:
    text = annotations.get(PROGRESS_DEADLINE)
    if text is None:
        return DEFAULT_PROGRESS_DEADLINE_S
    try:
        deadline_s = parse_duration_s(text)
    except ValueError:
        deadline_s = 0.0
    if deadline_s < 1 or not deadline_s.is_integer():
        path = join_path("metadata.annotations", PROGRESS_DEADLINE)
        fields.report.error(path, f"must be whole seconds of at least 1s, like 600s, was {text!r}")
        return DEFAULT_PROGRESS_DEADLINE_S
    return deadline_s
