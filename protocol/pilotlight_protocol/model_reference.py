"""What a model's URI names, for every part that is given one. Pure: nothing is looked up.

/dir, dir, file:///dir                 a folder of this machine; file:// is percent-decoded (RFC 8089)
bundled://NAME                         a model of the installed pilotlight_models package
hf://ORG/NAME[:REVISION]               a repository of the Hugging Face hub, as KServe writes it; @REVISION is the same
pvc://CLAIM[/FOLDER]                   a folder of a mounted persistent volume claim
s3:// gs:// az:// BUCKET[/FOLDER]      an object store
http(s)://HOST/FOLDER                  a web server
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import quote, unquote, urlsplit

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.manifest import unsafe_name

Scheme = Literal["file", "bundled", "hf", "pvc", "s3", "gs", "az", "http", "https"]
STORE_VARIABLE = "PILOTLIGHT_STORE"
"""Names the folder of models that were fetched, in every process of a machine."""

_HUB_MODEL = re.compile(r"(?P<path>[\w.-]+/[\w.-]+)(?:[@:](?P<revision>[\w./+~-]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelReference:
    """`path`: a folder (`file`), a name (`bundled`), organisation/name (`hf`), claim and folder (`pvc`), and what
    follows the scheme of all others. `uri`: the one spelling of this reference; it may hold secrets (a query)."""

    scheme: Scheme
    path: str
    revision: str | None = None

    @property
    def in_place(self) -> bool:
        """Whether the model is served where it lies; all others the store fetches."""
        return self.scheme in ("file", "bundled")

    @property
    def uri(self) -> str:
        if self.scheme == "file":
            return f"file://{quote(self.path)}" if self.path.startswith("/") else self.path
        path = quote(self.path) if self.scheme == "pvc" else self.path
        return f"{self.scheme}://{path}" + (f"@{self.revision}" if self.revision else "")


def parse_model_reference(uri: str) -> ModelReference:
    """Raises InvalidInput, which says how it is written, for what can be no model's URI."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return ModelReference("file", uri)
    match scheme.lower():
        case "file":
            host, slash, path = rest.partition("/")
            if host not in ("", "localhost") or not slash:
                raise InvalidInput(f"{uri} is no local directory; write file:///absolute/directory")
            return ModelReference("file", "/" + unquote(path))
        case "bundled":
            return ModelReference("bundled", rest.rstrip("/"))
        case "hf":
            match = _HUB_MODEL.fullmatch(rest.rstrip("/"))
            if match is None:
                raise InvalidInput(f"'{uri}' must look like hf://organisation/name or hf://organisation/name:revision")
            return ModelReference("hf", match["path"], match["revision"])
        case "pvc":
            path = unquote(rest).rstrip("/")
            claim, _, folder = path.partition("/")
            if unsafe_name(claim) or (folder and unsafe_name(folder)):
                raise InvalidInput(f"{uri}: write pvc://claim/folder")
            return ModelReference("pvc", path)
        case "s3" | "gs" | "az" | "http" | "https" as remote:
            _check_host(uri)
            return ModelReference(remote, rest)
    known = ", ".join(f"{name}://" for name in get_args(Scheme))
    raise InvalidInput(f"model URIs with {scheme}:// are not supported; use one of {known}")


def _check_host(uri: str) -> None:
    try:
        host = urlsplit(uri).netloc
    except ValueError as error:
        raise InvalidInput(f"not a model's URI: {error}") from error
    if not host:
        raise InvalidInput("a model's URI names a host or a bucket after ://")
