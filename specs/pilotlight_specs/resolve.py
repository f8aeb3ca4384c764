"""From the documents of the applied files to the desired state and everything to report about them. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence

from pilotlight_specs.containers import EnvironmentSources
from pilotlight_specs.desired import Desired, InferenceService
from pilotlight_specs.fields import Fields
from pilotlight_specs.findings import Finding, Report
from pilotlight_specs.inference_service import ComponentCheck, Surroundings, read_inference_service
from pilotlight_specs.kpa import KPAConfig, default_config
from pilotlight_specs.metadata import peek_identity, read_metadata
from pilotlight_specs.runtimes import Runtime, read_runtime
from pilotlight_specs.yaml_files import Document

_API_VERSIONS = {
    "InferenceService": "serving.kserve.io/v1beta1",
    "ServingRuntime": "serving.kserve.io/v1alpha1",
    "ClusterServingRuntime": "serving.kserve.io/v1alpha1",
    "ConfigMap": "v1",
    "Secret": "v1",
    "Namespace": "v1",
}
_CLUSTER_SCOPED = ("ClusterServingRuntime", "Namespace")


def resolve(
    documents: Sequence[Document],
    config: KPAConfig | None = None,
    check: ComponentCheck = lambda component: (),
) -> Desired:
    """The endpoints that the documents describe. Endpoints with errors are left out; `Desired.errors` says why.

    `check` says what keeps a component from ever starting where it is applied.
    """
    config = config or default_config()
    readers = [(_open(document), document) for document in documents]
    readers = _without_repeats(readers)
    config_maps: dict[tuple[str, str], dict[str, str]] = {}
    secrets: dict[tuple[str, str], dict[str, str]] = {}
    sources = EnvironmentSources(config_maps, secrets)
    for fields, document in readers:
        if document.data.get("kind") == "ConfigMap":
            config_maps.update(_read_config_map(fields))
        elif document.data.get("kind") == "Secret":
            secrets.update(_read_secret(fields))
        elif document.data.get("kind") == "Namespace":
            read_metadata(fields, cluster_scoped=True)

    runtimes: list[Runtime] = []
    for fields, document in readers:
        kind = document.data.get("kind")
        if kind in ("ServingRuntime", "ClusterServingRuntime"):
            metadata = read_metadata(fields, cluster_scoped=kind == "ClusterServingRuntime")
            runtimes.append(read_runtime(fields, metadata.name, metadata.namespace, sources))
            fields.finish()

    services: list[InferenceService] = []
    for fields, document in readers:
        if document.data.get("kind") == "InferenceService":
            metadata = read_metadata(fields, isvc=True)
            service = read_inference_service(fields, metadata, Surroundings(runtimes, sources, config, check))
            fields.finish()
            if service is not None:
                services.append(service)
    return Desired(tuple(services), tuple(_all_findings(fields for fields, _ in readers)))


def _open(document: Document) -> Fields:
    """A reader of the document, its apiVersion and kind already checked."""
    data = document.data
    kind = str(data.get("kind") or "object")
    namespace, name = peek_identity(data, cluster_scoped=kind in _CLUSTER_SCOPED)
    identity = f"{namespace}/{name}" if namespace else name
    report = Report(document.source, f"{kind} {identity}", document.lines)
    fields = Fields(data, "", report)
    api_version = fields.text("apiVersion")
    fields.text("kind")
    fields.raw("status")
    expected = _API_VERSIONS.get(kind)
    if "kind" not in data or "apiVersion" not in data:
        report.error("", "needs apiVersion and kind")
    elif expected is None:
        report.unsupported("kind", f"{api_version} {kind} has no meaning here and is left out")
    elif api_version != expected:
        report.error("apiVersion", f"must be {expected} for {kind}, was {api_version!r}")
    return fields


def _without_repeats(readers: list[tuple[Fields, Document]]) -> list[tuple[Fields, Document]]:
    """kubectl would apply the same object twice and the last would win; in one set of files that is a mistake."""
    seen: dict[tuple[str, str], str] = {}
    for fields, document in readers:
        if fields.report.failed:
            continue
        identity = (str(document.data.get("kind")), fields.report.object)
        if identity in seen:
            fields.report.error("metadata.name", f"the same object is also in {seen[identity]}; rename or remove one")
        seen.setdefault(identity, document.place)
    return readers


def _read_config_map(fields: Fields) -> dict[tuple[str, str], dict[str, str]]:
    metadata = read_metadata(fields)
    data = fields.text_map("data")
    fields.boolean("immutable")
    fields.finish({"binaryData": "binary values cannot be environment variables"})
    return {(metadata.namespace, metadata.name): data}


def _read_secret(fields: Fields) -> dict[tuple[str, str], dict[str, str]]:
    metadata = read_metadata(fields)
    values: dict[str, str] = {}
    for key, encoded in fields.text_map("data").items():
        try:
            values[key] = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            fields.report.error(f"data.{key}", "must be base64 of UTF-8 text; or put the plain text under stringData")
    values.update(fields.text_map("stringData"))
    fields.text("type")
    fields.boolean("immutable")
    fields.finish()
    return {(metadata.namespace, metadata.name): values}


def _all_findings(readers: Iterable[Fields]) -> list[Finding]:
    return [finding for fields in readers for finding in dict.fromkeys(fields.report.findings)]
