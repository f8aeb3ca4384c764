"""The applied YAML: read, checked and resolved into the pods that KServe 0.20 and Knative 1.23 would run."""

from pilotlight_specs.desired import (
    Component,
    Container,
    Desired,
    EmptyDir,
    EnvVar,
    InferenceService,
    ModelMount,
    PodSpec,
    Probe,
)
from pilotlight_specs.findings import Finding, summarize
from pilotlight_specs.inference_service import Obstacle
from pilotlight_specs.resolve import resolve
from pilotlight_specs.yaml_files import Document, parse_documents, read_documents

__all__ = [
    "Component",
    "Container",
    "Desired",
    "Document",
    "EmptyDir",
    "EnvVar",
    "Finding",
    "InferenceService",
    "ModelMount",
    "Obstacle",
    "PodSpec",
    "Probe",
    "parse_documents",
    "read_documents",
    "resolve",
    "summarize",
]
