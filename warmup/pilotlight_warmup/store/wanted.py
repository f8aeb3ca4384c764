"""Which files of a listing are downloaded, and what each must be: a shipped manifest's word, or the usual selection."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pilotlight_protocol.manifest import (
    MANIFEST_NAME,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    Manifest,
    ManifestFile,
    ManifestInvalid,
    decode_manifest,
)

from pilotlight_warmup.store.errors import SourceRefused, VerificationFailed
from pilotlight_warmup.store.names import NameRefused, check_name, select
from pilotlight_warmup.store.source import Listing, RemoteFile, Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What is to be downloaded: the files, and the promise about them where the model ships one."""

    uri: str
    key: str
    listing: Listing
    files: tuple[RemoteFile, ...]
    shipped: Manifest | None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def wanted_files(source: Source, listing: Listing) -> Wanted:
    """Raises SourceRefused, VerificationFailed, and what reading a shipped manifest raises."""
    if len(listing.files) > MAX_FILES:
        raise SourceRefused(f"{source.uri} has more than {MAX_FILES} files; give the model's own folder")
    by_name = {file.name: file for file in listing.files}
    key = listing.key(source.uri)
    shipped_file = by_name.get(MANIFEST_NAME)
    try:
        if shipped_file is not None:
            shipped = _shipped(source, shipped_file)
            files = tuple(_promised(source, file, by_name) for file in shipped.files)
            return Wanted(source.uri, key, listing, files, shipped)
        selection = select(by_name)
    except NameRefused as error:
        raise SourceRefused(f"{source.uri}: {error}") from error
    if selection.code:
        log.warning("%s: left out because loading them can run code: %s", source.uri, ", ".join(selection.code))
    return Wanted(source.uri, key, listing, tuple(by_name[name] for name in selection.wanted), None)


def _shipped(source: Source, file: RemoteFile) -> Manifest:
    if file.size_bytes > MAX_MANIFEST_BYTES:
        raise SourceRefused(f"{source.uri}/{file.name} has {file.size_bytes} bytes; that is no manifest")
    body = b"".join(bytes(block) for block in source.blocks(file, 0, file.size_bytes)) if file.size_bytes else b""
    try:
        return decode_manifest(body)
    except ManifestInvalid as error:
        raise SourceRefused(f"{source.uri}/{file.name}: {error}") from error


def _promised(source: Source, promised: ManifestFile, by_name: dict[str, RemoteFile]) -> RemoteFile:
    """The source's file that a shipped manifest names, with the sha256 it must have."""
    check_name(promised.name)
    file = by_name.get(promised.name)
    if file is None:
        raise VerificationFailed(f"{source.uri} does not have {promised.name}, which its manifest promises")
    if file.size_bytes != promised.size_bytes:
        raise VerificationFailed(
            f"{source.uri}/{file.name} has {file.size_bytes} bytes, its manifest promises {promised.size_bytes}"
        )
    if file.sha256 not in {None, promised.sha256}:
        raise VerificationFailed(f"{source.uri}/{file.name}: source and manifest promise different sha256")
    return RemoteFile(file.name, file.size_bytes, file.locator, file.etag, promised.sha256, file.git_sha1, file.ranged)
