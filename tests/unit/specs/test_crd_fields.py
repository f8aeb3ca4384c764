"""Every field that KServe's own schemas know is read, or reported by its name: none is taken for a misspelling, none
is dropped in silence beside a misspelled one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from crds import definitions

from pilotlight_specs import Document, resolve

# Written as spec.predictor.model; each has the whole of a container's schema once more.
FRAMEWORKS = (
    *("sklearn", "xgboost", "tensorflow", "pytorch", "triton", "onnx", "huggingface", "pmml", "lightgbm", "paddle"),
)


def spec_schema(definition: str, version: str) -> dict[str, Any]:
    versions = definitions()[definition]["spec"]["versions"]
    schema = next(item for item in versions if item["name"] == version)["schema"]["openAPIV3Schema"]
    return dict(schema["properties"]["spec"])


def with_every_field(schema: dict[str, Any]) -> Any:
    """A value that has all that the schema names."""
    if schema.get("x-kubernetes-int-or-string"):
        return 1
    match schema.get("type"):
        case "string":
            return (schema.get("enum") or ["x"])[0]
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "array":
            return [with_every_field(schema["items"])]
    if "properties" in schema:
        return {name: with_every_field(inner) for name, inner in schema["properties"].items()}
    return {"a": with_every_field(schema.get("additionalProperties") or {"type": "string"})}


def service(without: str) -> dict[str, Any]:
    spec = with_every_field(spec_schema("inferenceservices.serving.kserve.io", "v1beta1"))
    for name in (*FRAMEWORKS, without):
        del spec["predictor"][name]
    identity = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "demo"}}
    return {**identity, "spec": spec}


def runtime() -> dict[str, Any]:
    spec = with_every_field(spec_schema("clusterservingruntimes.serving.kserve.io", "v1alpha1"))
    spec["containers"][0]["name"] = "kserve-container"
    identity = {"apiVersion": "serving.kserve.io/v1alpha1", "kind": "ClusterServingRuntime"}
    return {**identity, "metadata": {"name": "demo"}, "spec": spec}


def unknown(document: dict[str, Any]) -> set[str]:
    findings = resolve([Document("f.yaml", document)]).findings
    return {finding.path for finding in findings if finding.severity == "unknown"}


@pytest.mark.parametrize("document", [service("model"), service("containers"), runtime()], ids=["whole", "model", "cr"])
def test_no_field_of_the_schema_is_unknown(document: dict[str, Any]) -> None:
    assert unknown(document) == set()


PLACES = [
    ("spec",),
    ("spec", "predictor"),
    ("spec", "transformer"),
    ("spec", "predictor", "containers", 0),
    ("spec", "predictor", "containers", 0, "readinessProbe"),
    ("spec", "predictor", "containers", 0, "livenessProbe", "httpGet"),
    ("spec", "predictor", "containers", 0, "env", 0),
    ("spec", "predictor", "containers", 0, "ports", 0),
    ("spec", "predictor", "containers", 0, "volumeMounts", 0),
    ("spec", "predictor", "containers", 0, "resources"),
    ("spec", "predictor", "storageUris", 0),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_misspelled_field_is_told_wherever_it_stands(place: tuple[str | int, ...]) -> None:
    document = copy.deepcopy(service("model"))
    at: Any = document
    for step in place:
        at = at[step]
    at["misspeled"] = 1
    (path,) = unknown(document)
    assert path.endswith(".misspeled")
