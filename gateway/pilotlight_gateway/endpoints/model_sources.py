"""Which models a tenant may name. Pure: nothing is looked up, so a name that leads into a private network is not seen.

A folder of the machine, a claim or a bucket is read with the machine's own rights: only where the rules say so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.model_reference import ModelReference, parse_model_reference

_PRIVATE_ENDINGS = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".svc")


def checked_source(uri: str, sources: Sequence[str], field: str) -> str:
    """The one spelling of the URI. Raises InvalidInput in the words of who wrote it."""
    if not uri.isprintable() or " " in uri:
        raise InvalidInput(f"'{field}' must be a URI without spaces or control characters", param=field)
    try:
        reference = parse_model_reference(uri)
    except InvalidInput as error:
        raise InvalidInput(f"'{field}': {error.message}", param=field) from error
    if reference.scheme == "file" and not reference.path.startswith("/"):
        raise InvalidInput(f"'{field}' must be a model's URI, as hf://organisation/name", param=field)
    spelled = reference.uri
    if any(part in (".", "..") for part in _decoded(reference.path).replace("\\", "/").split("/")):
        raise InvalidInput(f"'{field}' must not have '.' or '..' in its path", param=field)
    if not any(_is_below(spelled, source) for source in sources):
        raise InvalidInput(f"'{field}' cannot be {_shown(reference)}: {_allowed(sources)}", param=field)
    if reference.scheme in ("http", "https"):
        _check_host(spelled, field, listed=any(len(source) > len("https://") for source in _matching(spelled, sources)))
    return spelled


def _decoded(path: str) -> str:
    """Until nothing changes: what is decoded twice somewhere must not come out as something else."""
    for _ in range(4):
        decoded = unquote(path)
        if decoded == path:
            return path
        path = decoded
    return ".."


def _is_below(uri: str, source: str) -> bool:
    """`s3://a` and `s3://a/` allow `s3://a/b` and not `s3://ab`."""
    if source.endswith("://"):
        return uri.startswith(source)
    return uri == source.rstrip("/") or uri.startswith(source.rstrip("/") + "/")


def _matching(uri: str, sources: Sequence[str]) -> list[str]:
    return [source for source in sources if _is_below(uri, source)]


def _allowed(sources: Sequence[str]) -> str:
    """Without the folders, which are nobody's business."""
    shown = [source for source in sources if not source.startswith(("file:", "pvc:", "/"))]
    return f"this server takes models from {', '.join(shown) or 'nowhere'}; its operator can allow more"


def _shown(reference: ModelReference) -> str:
    return f"{reference.scheme}://…"


def _check_host(uri: str, field: str, *, listed: bool) -> None:
    """Raises InvalidInput for credentials in the URI, and for a host of the private network that is not listed."""
    try:
        parts = urlsplit(uri)
        host = (parts.hostname or "").rstrip(".")
    except ValueError as error:
        raise InvalidInput(f"'{field}' is no URI: {error}", param=field) from error
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(f"'{field}' must not have a user or password in it: it is shown again", param=field)
    if not listed and _is_private(host):
        raise InvalidInput(f"'{field}' must name a public host", param=field)


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        pass
    # A last label of digits is an address in another spelling: 0x7f.1, 2130706433.
    return "." not in host or host.endswith(_PRIVATE_ENDINGS) or host.rpartition(".")[2][:1].isdigit()
