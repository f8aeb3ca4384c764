"""Whose prefixes a foreign server's request may find: vLLM's `cache_salt`, where tenants share one. Pure.

A prefix that one tenant's request left in a server's cache is told from one that is not there by its time and by
`cached_tokens`. Our own pods salt by themselves what hops say of a request (`pilotlight_wire/engine_parameters.py`). A
container that is not ours knows no such header, but vLLM's server and others take the field. Who owns the endpoint's
namespace runs the container, so its own requests go as they are: no salted one finds what they left.
"""

from __future__ import annotations

import msgspec

from pilotlight_gateway.request_steps import GatewayRequest
from pilotlight_gateway.surfaces import makes_tokens
from pilotlight_protocol.errors import InvalidInput
from pilotlight_wire.engine_parameters import tenant_salt

FIELD = "cache_salt"


def needs_salt(request: GatewayRequest) -> bool:
    """V2's bodies have no place for one. At an open door everybody is one person."""
    entry, caller, place = request.entry, request.caller, request.place
    is_foreign = entry.text is None and entry.cache_salt == "send"
    is_shared = bool(caller.key_id) and caller.tenant != entry.namespace
    return is_foreign and is_shared and place.model is None and makes_tokens(place.method, place.component_path)


def salt_for(request: GatewayRequest, own: msgspec.Raw | None) -> str:
    """`own`: what the body has. It keeps prefixes apart further, and finds no other tenant's. Raises InvalidInput."""
    try:
        given = None if own is None else msgspec.json.decode(own, type=str | None)
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"'{FIELD}' must be text", param=FIELD) from error
    return tenant_salt(request.caller.tenant, given or "")
