"""A model behind plain HTTP(S): a folder with a shipped manifest, or with the file names transformers gives a model.

HTTP cannot list a folder, so without a manifest the well-known names are asked for one by one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from pilotlight_models.folder_files import INDEX_NAME
from pilotlight_protocol.manifest import (
    MANIFEST_NAME,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    ManifestInvalid,
    decode_manifest,
    unsafe_name,
    without_secrets,
)
from pilotlight_store.errors import SourceMissing, SourceRefused, VerificationFailed
from pilotlight_store.sources.http_answers import Probe
from pilotlight_store.sources.http_ranges import HttpRanges
from pilotlight_store.sources.source import Listing, RemoteFile

WELL_KNOWN = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja",
    "chat_template.json", "preprocessor_config.json", "processor_config.json", "quantize_config.json",
    "quant_config.json", "hf_quant_config.json", "recipe.yaml", "adapter_config.json", "adapter_model.safetensors",
    "LICENSE", "README.md", INDEX_NAME, "model.safetensors",
)  # fmt: skip
# https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas
_AZURE_SAS = frozenset({
    "sv", "ss", "srt", "sr", "st", "se", "sp", "sip", "spr", "sig", "skoid", "sktid", "skt", "ske", "sks", "skv",
    "saoid", "suoid", "scid", "sdd", "si", "ses",
})  # fmt: skip


class HttpSource:
    """`uri` names the folder; its query (an SAS token) goes with every file of it."""

    def __init__(self, uri: str, ranges: HttpRanges) -> None:
        self._base = urlsplit(uri)
        self._ranges = ranges

    @property
    def uri(self) -> str:
        return without_secrets(urlunsplit(self._base)).rstrip("/")

    @property
    def identity(self) -> str:
        return f"{self.uri}?{_hash(self._base.query)}" if self._base.query else self.uri

    def listing(self) -> Listing:
        body = self._ranges.read(self._url(MANIFEST_NAME), MAX_MANIFEST_BYTES)
        if body is not None:
            try:
                names = [file.name for file in decode_manifest(body).files]
            except ManifestInvalid as error:
                raise SourceRefused(f"{self.uri}/{MANIFEST_NAME}: {error}") from error
            names.append(MANIFEST_NAME)
            must = set(names)
        else:
            weights = self._weights()
            names = [*dict.fromkeys([*WELL_KNOWN, *weights])]
            must = set(weights)
        files = [file for name in names if (file := self._file(name, name in must)) is not None]
        if not files:
            raise SourceMissing(f"{self.uri} has no {MANIFEST_NAME}, no config.json and no model.safetensors")
        return Listing(tuple(files), variant=_hash(without_signature(self._base.query)))

    def blocks(self, file: RemoteFile, start: int, end: int) -> Iterator[memoryview]:
        return self._ranges.blocks(file.locator, start, end, Probe(file.size_bytes, file.etag, file.ranged))

    def abort(self) -> None:
        self._ranges.abort()

    def close(self) -> None:
        self._ranges.close()

    def _weights(self) -> list[str]:
        body = self._ranges.read(self._url(INDEX_NAME), MAX_MANIFEST_BYTES * 8)
        if body is None:
            return []
        try:
            index = json.loads(body)
            names = sorted({str(name) for name in index["weight_map"].values()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise VerificationFailed(f"{self.uri}/{INDEX_NAME} is no index of weights") from error
        if len(names) > MAX_FILES:
            raise SourceRefused(f"{self.uri}/{INDEX_NAME} names {len(names)} files, at most {MAX_FILES} are taken")
        for name in names:
            if reason := unsafe_name(name):
                raise SourceRefused(f"{self.uri}/{INDEX_NAME} names {name!r}: {reason}")
        return names

    def _file(self, name: str, must: bool) -> RemoteFile | None:
        url = self._url(name)
        probe = self._ranges.probe(url)
        if probe is None:
            if must:
                raise SourceMissing(f"{self.uri} names {name} and does not have it")
            return None
        return RemoteFile(name, probe.size_bytes, url, etag=probe.etag, ranged=probe.ranged)

    def _url(self, name: str) -> str:
        base = self._base
        return urlunsplit((base.scheme, base.netloc, f"{base.path.rstrip('/')}/{quote(name)}", base.query, ""))


def without_signature(query: str) -> str:
    """What of a query may choose a model: not what an object store signed a URL with, which is new in each URL.

    Names are left out only where a whole signature of that kind is there: alone they may mean anything.
    """
    fields = parse_qsl(query, keep_blank_values=True)
    names = {name.lower() for name, _ in fields}
    signed = tuple(prefix for prefix in ("x-amz-", "x-goog-") if f"{prefix}signature" in names)
    azure = _AZURE_SAS if {"sv", "se", "sig"} <= names else frozenset()
    kept = [(name, value) for name, value in fields if not (name.lower().startswith(signed) or name.lower() in azure)]
    return repr(kept) if kept else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() if text else ""
