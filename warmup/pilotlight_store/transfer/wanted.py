"""Which files of a listing are downloaded, and what each must be: a shipped manifest's word, or the usual selection."""

from __future__ import annotations

import hashlib
import logging
import secrets
from dataclasses import dataclass, replace

from pilotlight_protocol.manifest import (
    MANIFEST_NAME,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    Manifest,
    ManifestFile,
    ManifestInvalid,
    decode_manifest,
    encode_manifest,
)
from pilotlight_store.errors import SourceRefused, VerificationFailed
from pilotlight_store.sources.source import Listing, RemoteFile, Source
from pilotlight_store.transfer.names import NameRefused, Part, check_name, in_part, select

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What is to be downloaded: the files, and the promise about them where the model ships one.

    `key` names this state of the source: the same key means that a download can be resumed or was done already. It is
    of one use, and `lasting` False, where nothing tells the source's state from its next one. `whole_key`: of the whole
    model, where a part is wanted. `identity`: the source's, and the part.
    """

    uri: str
    identity: str
    key: str
    whole_key: str
    part: Part
    lasting: bool
    listing: Listing
    files: tuple[RemoteFile, ...]
    shipped: Manifest | None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def identity_of(source: Source, part: Part) -> str:
    """What the store remembers a source's last state by."""
    return source.identity if part == "all" else f"{source.identity} {part}"


def wanted_files(source: Source, listing: Listing, part: Part = "all") -> Wanted:
    """Raises SourceRefused, VerificationFailed, and what reading a shipped manifest raises."""
    if len(listing.files) > MAX_FILES:
        raise SourceRefused(f"{source.uri} has more than {MAX_FILES} files; give the model's own folder")
    by_name = {file.name: file for file in listing.files}
    shipped_file = by_name.get(MANIFEST_NAME)
    try:
        if shipped_file is not None:
            shipped = _shipped(source, shipped_file)
            files = tuple(_promised(source, file, by_name) for file in shipped.files)
            return _wanted(source, listing, files, shipped, part)
        selection = select(by_name, part)
    except NameRefused as error:
        raise SourceRefused(f"{source.uri}: {error}") from error
    if selection.code:
        log.warning("%s: left out because loading them can run code: %s", source.uri, ", ".join(selection.code))
    return _wanted(source, listing, tuple(by_name[name] for name in selection.wanted), None, part)


def _wanted(
    source: Source, listing: Listing, whole: tuple[RemoteFile, ...], shipped: Manifest | None, part: Part
) -> Wanted:
    # Ranges of a file that may change unseen could be of two contents: it is fetched whole.
    whole = tuple(file if file.etag or file.promised else replace(file, ranged=False) for file in whole)
    files = tuple(file for file in whole if in_part(file.name, part))
    if not files:
        raise SourceRefused(f"{source.uri} has none of a model's {part} files; give the folder that holds them")
    lasting = all(file.etag or file.promised for file in files)
    key = _key(source, listing, files, shipped, lasting)
    whole_key = key if part == "all" else _key(source, listing, whole, shipped, lasting)
    identity = identity_of(source, part)
    return Wanted(source.uri, identity, key, whole_key, part, lasting, listing, files, shipped)


def _key(
    source: Source, listing: Listing, files: tuple[RemoteFile, ...], shipped: Manifest | None, lasting: bool
) -> str:
    lines = sorted(f"{file.name}\0{file.size_bytes}\0{file.etag}\0{file.sha256}\0{file.git_sha1}\n" for file in files)
    state = [source.uri, listing.variant, listing.revision, *lines]
    if shipped is not None:
        state.append(encode_manifest(shipped).decode())
    if not lasting:
        state.append(secrets.token_hex(16))
    return hashlib.sha256("\n".join(state).encode()).hexdigest()[:32]


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
