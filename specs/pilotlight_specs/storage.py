"""Where a component's models come from: URIs and mount paths. No I/O is done here."""

from __future__ import annotations

from typing import get_args

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.model_reference import Scheme, parse_model_reference
from pilotlight_specs.desired import MODEL_MOUNT_PATH, ModelMount
from pilotlight_specs.fields import Fields
from pilotlight_specs.findings import Report

_KSERVE_SCHEMES = (
    "gs",
    "s3",
    "pvc",
    "file",
    "https",
    "http",
    "hdfs",
    "webhdfs",
    "oci",
    "oci+native",
    "oci+fetch",
    "hf",
)


def model_mounts(model: Fields) -> tuple[ModelMount, ...]:
    """The model of `storageUri`, or of `storage` with its parameters."""
    uri, storage = model.text("storageUri"), model.mapping("storage")
    if storage is None:
        return (ModelMount(uri, MODEL_MOUNT_PATH),) if uri else ()
    if uri:
        model.report.error(model.at("storage"), "set only one of storageUri and storage")
    path, parameters = storage.text("path"), storage.text_map("parameters")
    kind, bucket = parameters.get("type", ""), parameters.get("bucket", "")
    if storage.text("key"):
        storage.report.unsupported(storage.at("key"), "the storage-config secret is not read; set storage.parameters")
    if storage.text("schemaPath"):
        storage.report.unsupported(storage.at("schemaPath"), "model schemas are not read")
    storage.finish()
    if not kind or not bucket:
        storage.report.error(storage.path, "set parameters.type and parameters.bucket, or use storageUri")
        return ()
    return (ModelMount(f"{kind}://{bucket}/{path.lstrip('/')}", MODEL_MOUNT_PATH),)


def read_storage_uris(fields: Fields) -> tuple[ModelMount, ...]:
    """The models of a component's `storageUris`, each with a mount path of its own."""
    found = []
    for entry in fields.mappings("storageUris"):
        uri, mount_path = entry.required_text("uri"), entry.text("mountPath") or MODEL_MOUNT_PATH
        entry.finish()
        if not mount_path.startswith("/") or mount_path == "/":
            entry.report.error(entry.at("mountPath"), f"must be an absolute path below /, was {mount_path!r}")
        found.append(ModelMount(uri, mount_path.rstrip("/")))
    return tuple(found)


def check_uris(mounts: tuple[ModelMount, ...], report: Report, path: str) -> None:
    """Refuse what can be no model's URI, and warn about what only one of KServe and the embedded platform can mount."""
    for mount in mounts:
        scheme, separator, _ = mount.uri.partition("://")
        if scheme in _KSERVE_SCHEMES and scheme not in get_args(Scheme):
            report.unsupported(path, f"models are not fetched from {scheme}:// here ({mount.uri})")
            continue
        try:
            reference = parse_model_reference(mount.uri)
        except InvalidInput as error:
            report.error(path, error.message)
            continue
        if separator and scheme not in _KSERVE_SCHEMES:
            report.warning(path, f"KServe's storage initializer does not know {scheme}:// ({mount.uri})")
        if reference.revision is not None and "@" in mount.uri:
            pinned = f"hf://{reference.path}:{reference.revision}"
            report.warning(path, f"KServe's storage initializer does not know @revision; write {pinned}")
