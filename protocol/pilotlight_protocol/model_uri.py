"""What a model's URI names. Pure: nothing is looked up.

/dir, dir, file:///dir        a folder of this machine; file:// is percent-decoded (RFC 8089)
bundled://NAME                a model of the installed pilotlight_models package
hf://ORG/NAME[@REVISION]      a repository of the Hugging Face hub
SCHEME://…                    anything else: what the model store fetches
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from pilotlight_protocol.errors import InvalidInput

_REPOSITORY = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class Folder:
    path: str


@dataclass(frozen=True, slots=True)
class BundledModel:
    name: str


@dataclass(frozen=True, slots=True)
class HubModel:
    repository: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class RemoteModel:
    scheme: str


ModelPlace = Folder | BundledModel | HubModel | RemoteModel


def parse_model_uri(uri: str) -> ModelPlace:
    """Raises InvalidInput for a URI of a known scheme that cannot be one."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Folder(uri)
    match scheme.lower():
        case "file":
            host, slash, path = rest.partition("/")
            if host not in ("", "localhost") or not slash:
                raise InvalidInput(f"{uri} is no local directory; write file:///absolute/directory")
            return Folder("/" + unquote(path))
        case "bundled":
            return BundledModel(rest.rstrip("/"))
        case "hf":
            match = _REPOSITORY.fullmatch(rest.rstrip("/"))
            if match is None:
                raise InvalidInput(f"'{uri}' must look like hf://organisation/name or hf://organisation/name@revision")
            return HubModel(match["repository"], match["revision"])
    return RemoteModel(scheme)
