"""Reads `metadata` of an object and checks its name as the API server and KServe do. No I/O is done here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pilotlight_specs.fields import Fields

DEFAULT_NAMESPACE = "default"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_ISVC = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# The longest name that Knative derives is the revision's: <isvc>-transformer-00001, at most 63 characters.
ISVC_NAME_MAX = 63 - len("-transformer-00001")
_SERVER_SIDE = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "ownerReferences")
_SERVER_SIDE_ALSO = ("finalizers", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Who an object is. `namespace` is empty for cluster-scoped kinds."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    def as_template(self) -> dict[str, object]:
        """What `{{.Name}}` and its like in a runtime may refer to."""
        return {
            "name": self.name,
            "namespace": self.namespace,
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
        }


def is_isvc_name(name: str) -> bool:
    """Whether KServe takes it for an InferenceService, and Knative what it derives from it."""
    return _ISVC.fullmatch(name) is not None and len(name) <= ISVC_NAME_MAX


def peek_identity(data: Mapping[str, object], *, cluster_scoped: bool) -> tuple[str, str]:
    """(namespace, name) of an object whatever their types, to name it in findings."""
    metadata = data.get("metadata")
    found = metadata if isinstance(metadata, dict) else {}
    namespace = "" if cluster_scoped else str(found.get("namespace") or DEFAULT_NAMESPACE)
    return namespace, str(found.get("name") or "")


def read_metadata(document: Fields, *, cluster_scoped: bool = False, isvc: bool = False) -> Metadata:
    """The object's metadata; bad names are errors."""
    fields = document.mapping("metadata")
    if fields is None:
        document.report.error("metadata.name", "required; set it")
        return Metadata("", "" if cluster_scoped else DEFAULT_NAMESPACE, {}, {})
    name = fields.required_text("name")
    namespace = fields.text("namespace")
    if name and isvc and not is_isvc_name(name):
        fields.report.error(
            fields.at("name"), f"must match {_ISVC.pattern} and have at most {ISVC_NAME_MAX} characters, was {name!r}"
        )
    elif name and not (_SUBDOMAIN.fullmatch(name) and len(name) <= 253):
        fields.report.error(fields.at("name"), f"must be a lower-case DNS name, was {name!r}")
    if namespace and not (_LABEL.fullmatch(namespace) and len(namespace) <= 63):
        fields.report.error(fields.at("namespace"), f"must be a lower-case DNS label, was {namespace!r}")
    if cluster_scoped and namespace:
        fields.report.warning(fields.at("namespace"), "this kind is cluster-scoped, its namespace is ignored")
    metadata = Metadata(
        name=name,
        namespace="" if cluster_scoped else namespace or DEFAULT_NAMESPACE,
        labels=fields.text_map("labels"),
        annotations=fields.text_map("annotations"),
    )
    for key in (*_SERVER_SIDE, *_SERVER_SIDE_ALSO):
        fields.raw(key)
    fields.finish({"generateName": "objects are applied by name"})
    return metadata
