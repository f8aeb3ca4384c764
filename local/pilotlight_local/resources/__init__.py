"""The applied YAML: read, checked and resolved into the pods that KServe 0.20 and Knative 1.23 would run."""

from .desired import (
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
from .findings import Finding, summarize
from .pod_command import (
    NoEntrypoint,
    Placement,
    PodCommand,
    leases_engines,
    pod_command,
    pool_env,
)
from .resolve import resolve
from .yaml_files import Document, parse_documents, read_documents

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
    "NoEntrypoint",
    "Placement",
    "PodCommand",
    "PodSpec",
    "Probe",
    "leases_engines",
    "parse_documents",
    "pod_command",
    "pool_env",
    "read_documents",
    "resolve",
    "summarize",
]
