"""Who may ask a pool for what. Pure: keys come as a text, files are checked where they are opened.

A pool without keys trusts everybody who can reach it: one person's machine. With keys every caller is one tenant, or
the operator; a tenant leases for itself alone, from the sources it was given, with engine arguments that can neither
run code nor read files, and hears of nobody else's leases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from pilotlight_protocol.errors import Forbidden, InvalidInput
from pilotlight_protocol.model_reference import parse_model_reference

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOURCE = re.compile(r"[a-z0-9+.-]+://.+")

SHARED_ENGINE_ARGS = frozenset(
    {
        "block_size", "disable_cascade_attn", "disable_sliding_window", "dtype", "enable_chunked_prefill",
        "enable_prefix_caching", "enforce_eager", "kv_cache_dtype", "kv_cache_memory_bytes",
        "long_prefill_token_threshold", "max_logprobs", "max_long_partial_prefills", "max_model_len",
        "max_num_batched_tokens", "max_num_partial_prefills", "max_num_seqs", "max_seq_len_to_capture",
        "quantization", "scheduling_policy", "seed",
    }
)  # fmt: skip
"""vLLM engine arguments that a tenant may give for an engine in a process which others share: sizes and choices. Not
among them: the share of a device, which is the slot's; names of classes and modules that vLLM would import, paths, and
JSON that holds either."""


@dataclass(frozen=True, slots=True)
class Caller:
    """`tenant` None: may speak for any. `sources`: model URIs, or prefixes of them that end in `/` or `@`."""

    tenant: str | None
    operator: bool
    sources: tuple[str, ...] = ()

    def owns(self, tenant: str) -> bool:
        """True where it may see, renew and end that tenant's leases."""
        return self.operator or self.tenant == tenant


TRUSTED = Caller(None, operator=True)


def parse_keys(text: str) -> dict[str, Caller]:
    """By sha256 of the key. `text` is JSON: {"keys": [{"sha256", "tenant", "sources"} | {"sha256", "operator": true}]}.

    Raises InvalidInput that says which entry is wrong, never quoting a key.
    """
    try:
        entries = json.loads(text)["keys"]
    except (ValueError, KeyError, TypeError):
        raise InvalidInput('the lease keys are not JSON like {"keys": [{"sha256": "…", "tenant": "acme"}]}') from None
    if not isinstance(entries, list):
        raise InvalidInput("the lease keys are not a list")
    return dict(_entry(number, entry) for number, entry in enumerate(entries, 1))


def _entry(number: int, entry: Any) -> tuple[str, Caller]:
    if not isinstance(entry, dict) or not _SHA256.fullmatch(str(entry.get("sha256", ""))):
        raise InvalidInput(f"lease key {number}: 'sha256' must be the key's hash, 64 lower-case hex digits")
    unknown = entry.keys() - {"sha256", "tenant", "operator", "sources"}
    tenant, operator, sources = entry.get("tenant"), entry.get("operator", False), entry.get("sources", [])
    if unknown or not isinstance(operator, bool) or not _is_texts(sources):
        raise InvalidInput(f"lease key {number}: only sha256, tenant, operator (true) and sources (a list) are known")
    if operator == (isinstance(tenant, str) and bool(tenant)):
        raise InvalidInput(f"lease key {number}: it is one tenant's or the operator's")
    if not operator and not (sources and all(_SOURCE.match(source) for source in sources)):
        raise InvalidInput(f"lease key {number}: a tenant needs 'sources' such as s3://acme-models/ or hf://acme/")
    return entry["sha256"], Caller(None if operator else tenant, operator, tuple(map(_source, sources)))


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def tenant_of(caller: Caller, asked: str | None) -> str:
    """Whose lease it is. Raises Forbidden for another's."""
    if caller.tenant is None:
        return asked or "default"
    if asked not in (None, caller.tenant):
        raise Forbidden(f"this key leases for tenant '{caller.tenant}' only")
    return caller.tenant


def check_order(caller: Caller, uris: Iterable[str], engine_args: Mapping[str, str]) -> None:
    """Raises Forbidden for a source or an engine argument that is not this caller's to choose. `uris`: the model's and
    its adapters'."""
    if caller.operator:
        return
    for uri in uris:
        named = _spelt_alike(uri)
        if not any(_is_within(named, source) for source in caller.sources):
            raise Forbidden(f"{uri} is no source of tenant '{caller.tenant}'; those are {', '.join(caller.sources)}")
    refused = sorted(engine_args.keys() - SHARED_ENGINE_ARGS)
    if refused:
        raise Forbidden(
            f"engine argument '{refused[0]}' is not for engines that tenants share; "
            "give the endpoint an engine of its own (no pool), or leave it out"
        )


def _spelt_alike(uri: str) -> str:
    """As whoever serves it will read it: its path decoded, its revision after `@`."""
    try:
        reference = parse_model_reference(uri)
    except InvalidInput:
        return unquote(uri)  # whoever serves it refuses it, and says why
    path = reference.path if reference.scheme in ("file", "pvc") else unquote(reference.path)
    return f"{reference.scheme}://{path}" + (f"@{reference.revision}" if reference.revision else "")


def _source(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    return scheme + separator + (rest.replace(":", "@") if scheme == "hf" else rest)


def _is_within(uri: str, source: str) -> bool:
    if uri == source:
        return True
    return source.endswith(("/", "@")) and uri.startswith(source) and not {".", ".."} & set(uri.split("/"))
