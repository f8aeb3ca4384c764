"""What a server's answer says and must say: the file's size and identity, the bytes that were asked for. No I/O."""

from __future__ import annotations

import email.utils
import http.client
import re
from dataclasses import dataclass

from pilotlight_protocol.manifest import without_secrets
from pilotlight_store.errors import SourceChanged, SourceMissing, SourceUnavailable, VerificationFailed

TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
# No file has more than 18 digits of bytes, and int() raises for thousands of them.
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_EMPTY_RANGE = re.compile(r"bytes \*/0")


_MODIFIED = "Last-Modified: "


@dataclass(frozen=True)
class Probe:
    """What one byte's answer tells about a file. `etag` None: nothing tells this content from the next."""

    size_bytes: int
    etag: str | None
    ranged: bool


def probed(response: http.client.HTTPResponse, url: str) -> Probe:
    """From the answer to a request for one byte. Raises VerificationFailed where it does not say the size."""
    etag = _validator(response)
    content_range = response.getheader("Content-Range") or ""
    if response.status == 416 and _EMPTY_RANGE.fullmatch(content_range):
        return Probe(0, etag, False)
    if response.status == 206 and (match := _CONTENT_RANGE.fullmatch(content_range)):
        return Probe(int(match[3]), etag, True)
    if response.status == 200 and response.length is not None:
        return Probe(response.length, etag, False)
    raise VerificationFailed(f"{without_secrets(url)}: the server does not say how large the file is")


def _validator(response: http.client.HTTPResponse) -> str | None:
    """The ETag, else Last-Modified where a later change must show in it (RFC 9110, 8.8.2.2: older than the answer)."""
    etag, modified = response.getheader("ETag"), response.getheader("Last-Modified")
    if etag or not modified:
        return etag or None
    try:
        age = email.utils.parsedate_to_datetime(response.getheader("Date") or "") - email.utils.parsedate_to_datetime(
            modified
        )
    except (ValueError, TypeError):
        return None
    return f"{_MODIFIED}{modified}" if age.total_seconds() >= 1 else None


def condition(known: Probe) -> dict[str, str]:
    """The header by which a server refuses to send another content than `known`'s."""
    if known.etag is None or known.etag.startswith("W/"):
        return {}
    if known.etag.startswith(_MODIFIED):
        return {"If-Unmodified-Since": known.etag.removeprefix(_MODIFIED)}
    return {"If-Match": known.etag}


def _changed(response: http.client.HTTPResponse, known: Probe) -> bool:
    if known.etag is None:
        return False
    if known.etag.startswith(_MODIFIED):
        modified = response.getheader("Last-Modified")
        return modified is not None and modified != known.etag.removeprefix(_MODIFIED)
    etag = response.getheader("ETag")
    return bool(etag) and str(etag).removeprefix("W/") != known.etag.removeprefix("W/")


def check_range(response: http.client.HTTPResponse, url: str, start: int, end: int, known: Probe, whole: bool) -> None:
    """Raises SourceChanged or VerificationFailed unless it is bytes [start, end) of the file `known` is about."""
    shown = without_secrets(url)
    if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
        raise VerificationFailed(f"{shown}: the server compresses although it was asked not to")
    if _changed(response, known):
        raise SourceChanged(f"{shown} changed while it was downloaded; start again")
    if response.status == 206 and not whole:
        match = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range") or "")
        if match is None or (int(match[1]), int(match[2])) != (start, end - 1):
            raise VerificationFailed(f"{shown}: asked for bytes {start}-{end - 1}, the server sends others")
        if int(match[3]) != known.size_bytes:
            raise SourceChanged(f"{shown} has {match[3]} bytes now and had {known.size_bytes}; start again")
    elif response.status != 200 or not whole:
        raise SourceChanged(f"{shown}: the server does not serve ranges any more; start again")
    if response.length is not None and response.length != end - start:
        if whole:
            raise SourceChanged(f"{shown} has {response.length} bytes now and had {known.size_bytes}; start again")
        raise VerificationFailed(f"{shown}: asked for {end - start} bytes, the server announces {response.length}")


def raise_for_status(response: http.client.HTTPResponse, url: str) -> None:
    """SourceMissing, SourceChanged or SourceUnavailable, by what can help."""
    status, shown = response.status, without_secrets(url)
    if status in {200, 206} or (status == 416 and _EMPTY_RANGE.fullmatch(response.getheader("Content-Range") or "")):
        return
    if status in {401, 403}:
        raise SourceMissing(f"{shown}: {status}; give a token that may read it, or a fresh signed URL")
    if status in {404, 410}:
        raise SourceMissing(f"{shown}: {status}; check the address")
    if status in {412, 416}:
        raise SourceChanged(f"{shown} changed while it was downloaded; start again")
    if status in TRY_AGAIN:
        after = response.getheader("Retry-After") or ""
        raise SourceUnavailable(f"{shown}: {status}", retry_after_s=float(after) if after.isdecimal() else 0.0)
    raise SourceMissing(f"{shown}: the server answers {status}")
