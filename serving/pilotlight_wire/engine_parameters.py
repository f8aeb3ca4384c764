"""What hops say of a request, as an engine takes it: its place in the order, and whose prefixes it may find. Pure.

Called once, where parameters leave for an engine. A prefix that one tenant's request left in an engine's cache is told
from one that is not there by its time and by `cached_tokens`, so no other tenant's request may find it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_protocol.pooling import PoolingParameters
from pilotlight_protocol.request_priority import in_class
from pilotlight_wire.hop_headers import TENANT

_Parameters = TypeVar("_Parameters", GenerationParameters, PoolingParameters)


def for_engine(parameters: _Parameters, headers: Mapping[str, str]) -> _Parameters:
    """Where no gateway said whose request it is, its own `cache_salt` is all that keeps prefixes apart."""
    parameters = in_class(parameters, headers)
    tenant = headers.get(TENANT)
    if not tenant:
        return parameters
    return msgspec.structs.replace(parameters, cache_salt=tenant_salt(tenant, parameters.cache_salt or ""))


def tenant_salt(tenant: str, own: str) -> str:
    """A digest: an own salt may be as long as a salt may be."""
    both = f"{len(tenant)} {tenant}{own}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(both, digest_size=24).hexdigest()
