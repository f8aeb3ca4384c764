"""The manifest a model is published under: what its files are, byte for byte, and what an engine must know about it.

A model's *digest* is over its files alone (names, sizes, sha256), so the same files from two sources are one model. A
manifest may be shipped beside a model as `pilotlight-manifest.json`; it is then enforced, not trusted. Nothing here
reads a file or carries a secret: sources are recorded without user names, passwords and queries.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit, urlunsplit

import msgspec

MANIFEST_NAME = "pilotlight-manifest.json"
MANIFEST_FORMAT = 1
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILES = 10_000
MAX_NAME_BYTES = 512
# Windows' reserved characters are refused too: a store may lie on a shared file system.
_UNSAFE_CHARACTERS = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
_UNSEEN_CATEGORIES = frozenset({"Cc", "Cf", "Zl", "Zp"})
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ManifestInvalid(ValueError):
    """The bytes are no manifest, or one that must not be used; the message says why."""


class ManifestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: `name` is relative with forward slashes, `sha256` in lower-case hex."""

    name: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that is known of a model before an engine has seen it.

    `architecture` is `fingerprint.architecture_hash` of config and tensors; `quantization` the method's name (`awq`,
    `gptq`, `fp8`, `compressed-tensors`, …) or `none`; `dtype` as config.json says it (`bfloat16`); `context_length`
    in tokens. An empty `revision` means that the source has none. A shipped manifest may leave out whatever it does
    not want to promise; a published one is complete as far as the model's files tell.
    """

    files: tuple[ManifestFile, ...]
    format: int = MANIFEST_FORMAT
    architecture: str | None = None
    quantization: str | None = None
    dtype: str | None = None
    context_length: int | None = None
    license: str | None = None
    source: str = ""
    revision: str = ""

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def digest(self) -> str:
        """Hex sha256 over the files' names, sizes and hashes in the order of their names."""
        return files_digest(self.files)


def files_digest(files: Sequence[ManifestFile]) -> str:
    """Hex sha256 that names this set of files, in whatever order they are given."""
    lines = sorted(f"{file.name}\0{file.size_bytes}\0{file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def unsafe_name(name: str) -> str | None:
    """Why `name` must not become a path inside a model's directory, or None when it may."""
    if not name or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        return f"a name has 1 to {MAX_NAME_BYTES} bytes"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        return "a name is valid Unicode"
    if _UNSAFE_CHARACTERS.search(name):
        return 'control characters, backslashes and \\ : * ? " < > | are not allowed in a name'
    if any(unicodedata.category(character) in _UNSEEN_CATEGORIES for character in name):
        return "control and formatting characters, which do not show or change what shows, are not allowed in a name"
    if name.startswith("/"):
        return "a name is relative to the model"
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        return "a name has no empty part and no . or .."
    if any(len(part.encode()) > 255 for part in parts):
        return "a part of a name has at most 255 bytes"
    return None


def colliding_name(names: Iterable[str]) -> str | None:
    """Why these names cannot all be files of one folder, on every file system, or None when they can."""
    seen: set[str] = set()
    folders: set[str] = set()
    for name in names:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if folded in seen:
            return f"file {name!r} is named twice, or another file's name differs in case or Unicode form only"
        seen.add(folded)
        parts = folded.split("/")
        folders |= {"/".join(parts[:count]) for count in range(1, len(parts))}
    both = min(seen & folders, default=None)
    return None if both is None else f"file {both!r} is also a folder of other files"


def encode_manifest(manifest: Manifest) -> bytes:
    """Indented JSON, files by name, ending in a newline."""
    ordered = msgspec.structs.replace(manifest, files=tuple(sorted(manifest.files, key=lambda file: file.name)))
    return msgspec.json.format(msgspec.json.encode(ordered), indent=2) + b"\n"


def decode_manifest(body: bytes) -> Manifest:
    """The manifest in `body`. Raises ManifestInvalid for anything that may not be enforced."""
    if len(body) > MAX_MANIFEST_BYTES:
        raise ManifestInvalid(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes, this one has {len(body)}")
    try:
        manifest = msgspec.json.decode(body, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestInvalid(f"not a manifest: {error}") from error
    if manifest.format != MANIFEST_FORMAT:
        raise ManifestInvalid(f"manifest format {manifest.format} is not known here, only {MANIFEST_FORMAT}")
    if not 0 < len(manifest.files) <= MAX_FILES:
        raise ManifestInvalid(f"a manifest names 1 to {MAX_FILES} files, this one {len(manifest.files)}")
    if reason := colliding_name(file.name for file in manifest.files):
        raise ManifestInvalid(reason)
    for file in manifest.files:
        if reason := unsafe_name(file.name):
            raise ManifestInvalid(f"file {file.name!r}: {reason}")
        if file.name == MANIFEST_NAME:
            raise ManifestInvalid("a manifest cannot name itself")
        if file.size_bytes < 0:
            raise ManifestInvalid(f"file {file.name!r}: size_bytes is {file.size_bytes}")
        if not _SHA256.fullmatch(file.sha256):
            raise ManifestInvalid(f"file {file.name!r}: sha256 is 64 lower-case hex digits")
    return manifest


def broken_promises(shipped: Manifest, found: Manifest) -> tuple[str, ...]:
    """What the shipped manifest claims and the model's own files deny, one sentence each; empty when it told the truth.

    Files are compared while they are downloaded; this is about the claims beside them.
    """
    claims = ("architecture", "quantization", "dtype", "context_length")
    return tuple(
        f"{claim} is {getattr(found, claim)!r}, the manifest says {getattr(shipped, claim)!r}"
        for claim in claims
        if getattr(shipped, claim) is not None and getattr(shipped, claim) != getattr(found, claim)
    )


def without_secrets(uri: str) -> str:
    """`uri` without user, password, query and fragment: what may be logged and recorded."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme == "hf":
        return f"hf://{parts.netloc}{parts.path}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
