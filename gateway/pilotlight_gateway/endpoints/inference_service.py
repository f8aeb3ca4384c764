"""From a tenant's few words to the InferenceService that a platform team would write. Pure.

It says the same on a cluster as in the embedded platform. What a tenant wrote stands in arguments only, each a word of
its own, with its dollars doubled, so that Kubernetes puts no variable in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pilotlight_gateway.endpoints.endpoint_spec import EndpointSpec
from pilotlight_protocol.adapters import ADAPTER_ANNOTATION
from pilotlight_protocol.deadlines import REQUEST_TIMEOUT_S
from pilotlight_protocol.endpoint_directory import FRONT_ANNOTATION

_PORT = 8080
_CONTAINER = "kserve-container"
_PREDICTOR, _TRANSFORMER = "spec.predictor", "spec.transformer"

Argument = tuple[str, str, object]
"""The field that it comes from ("" for none), its flag, and its value; None where it is not given."""


@dataclass(frozen=True, slots=True)
class Images:
    """What the two containers run."""

    predictor: str = "pilotlight/predictor-cpu:0.1.0"
    transformer: str = "pilotlight/transformer:0.1.0"


@dataclass(frozen=True, slots=True)
class Manifest:
    """`fields`: which of the tenant's words stands at a path of `data`."""

    data: dict[str, Any]
    fields: dict[str, str]

    def field_at(self, path: str) -> str | None:
        """Of what a platform finds wrong there, or above or below it; None where it is no word of the tenant's."""
        while path:
            if path in self.fields:
                return self.fields[path]
            path = path.rpartition(".")[0]
        return None


def inference_service(spec: EndpointSpec, namespace: str, images: Images = Images()) -> Manifest:
    predictor, transformer = _predictor_arguments(spec), _transformer_arguments(spec)
    annotations = {
        "serving.kserve.io/deploymentMode": "Knative",
        "autoscaling.knative.dev/window": f"{spec.scale_window_s}s",
    }
    if spec.front != "auto":
        annotations[FRONT_ANNOTATION] = spec.front
    if spec.adapter:
        annotations[ADAPTER_ANNOTATION] = spec.adapter
    data = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": spec.name, "namespace": namespace, "annotations": annotations},
        "spec": {
            "predictor": _component(spec, images.predictor, "pilotlight_predictor", predictor),
            "transformer": _component(spec, images.transformer, "pilotlight_transformer", transformer),
        },
    }
    return Manifest(data, _fields(predictor, transformer))


def _predictor_arguments(spec: EndpointSpec) -> list[Argument]:
    given: list[Argument] = [
        ("name", "--model_name", spec.name),
        ("model", "--model_uri", spec.model),
        ("adapter", "--adapter", spec.adapter or None),
        ("quantization", "--quantization", spec.quantization if spec.quantization != "auto" else None),
        ("isolation", "--isolation", spec.isolation),
        ("max_prompt_tokens", "--max_prompt_tokens", spec.max_prompt_tokens),
        ("max_output_tokens", "--max_output_tokens", spec.max_output_tokens),
        ("max_queue", "--max_queue", spec.max_queue),
        ("timeout_s", "--drain_timeout_s", _other_timeout(spec)),
    ]
    engine = {"max_model_len": spec.max_model_len, "enforce_eager": "true" if spec.enforce_eager else None}
    given += [(name, "--engine_arg", f"{name}={value}") for name, value in engine.items() if value is not None]
    return [argument for argument in given if argument[2] is not None]


def _transformer_arguments(spec: EndpointSpec) -> list[Argument]:
    given: list[Argument] = [
        ("name", "--model_name", spec.name),
        ("model", "--model_uri", spec.model),
        ("adapter", "--adapter", spec.adapter or None),
        ("max_model_len", "--max_model_len", spec.max_model_len),
        ("tool_parser", "--tool_parser", spec.tool_parser),
        ("reasoning_parser", "--reasoning_parser", spec.reasoning_parser),
        ("timeout_s", "--predictor_request_timeout_seconds", _other_timeout(spec)),
        ("timeout_s", "--drain_timeout_s", _other_timeout(spec)),
    ]
    return [argument for argument in given if argument[2] is not None]


def _other_timeout(spec: EndpointSpec) -> int | None:
    """A spec with another timeout than the default sets those of its components, too."""
    return None if spec.timeout_s == REQUEST_TIMEOUT_S else spec.timeout_s


def _component(spec: EndpointSpec, image: str, module: str, arguments: list[Argument]) -> dict[str, Any]:
    is_predictor = module == "pilotlight_predictor"
    return {
        "minReplicas": spec.min_replicas,
        "maxReplicas": spec.max_replicas,
        "scaleMetric": "concurrency",
        "scaleTarget": spec.scale_target,
        "timeout": spec.timeout_s,
        "containers": [
            {
                "name": _CONTAINER,
                "image": image,
                "command": ["python", "-m", module],
                "args": [f"{flag}={value}".replace("$", "$$") for _, flag, value in arguments],
                "ports": [{"containerPort": _PORT, "protocol": "TCP"}],
                "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": _PORT}},
                "resources": {
                    "requests": {"cpu": "100m", "memory": "256Mi"},
                    "limits": {"cpu": "2" if is_predictor else "1", "memory": "1Gi"},
                },
            }
        ],
    }


def _fields(predictor: list[Argument], transformer: list[Argument]) -> dict[str, str]:
    fields = {"metadata.name": "name", f'metadata.annotations["{ADAPTER_ANNOTATION}"]': "adapter"}
    for component, arguments in ((_PREDICTOR, predictor), (_TRANSFORMER, transformer)):
        fields[f"{component}.minReplicas"] = "min_replicas"
        fields[f"{component}.maxReplicas"] = "max_replicas"
        fields[f"{component}.scaleTarget"] = "scale_target"
        fields[f"{component}.timeout"] = "timeout_s"
        for place, (field, _, _) in enumerate(arguments):
            fields[f"{component}.containers[0].args[{place}]"] = field
    return fields
