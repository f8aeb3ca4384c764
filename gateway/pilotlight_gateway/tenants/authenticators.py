"""From a request's headers to its caller: which credential it shows, and who knows it.

    Authorization: Bearer …   an API key, or an identity provider's token
    x-api-key: …              an API key (Anthropic's clients)

No credential ever gets into an error or a log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.tenants.api_keys import PREFIX
from pilotlight_gateway.tenants.tenant_watch import TenantWatch
from pilotlight_protocol.errors import Unauthorized

OPEN_TENANT = "default"
LONGEST_CREDENTIAL_CHARS = 8_192
_NONE_SHOWN = "this server asks for an API key: send `Authorization: Bearer plk_…` or `x-api-key: plk_…`"
_TWO_SHOWN = "Authorization and x-api-key show two different keys; send one of them"
NO_TOKENS = "this API key is not known here; check that it is whole, or ask who runs this server for one"


class TokenAuthenticator(Protocol):
    async def caller(self, token: str) -> Caller:
        """Of an identity provider's token. Raises Unauthorized, Forbidden, Unavailable."""
        ...


class TenantAuthenticator:
    """Implements Authenticator. `open_until_a_tenant`: who can reach this server is trusted until there is a tenant:
    one person's machine. `tokens`: who knows tokens that are no API keys."""

    def __init__(self, watch: TenantWatch, tokens: TokenAuthenticator, *, open_until_a_tenant: bool) -> None:
        self._watch = watch
        self._open_until_a_tenant = open_until_a_tenant
        self._tokens = tokens

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        await self._watch.until_fresh()
        if self._is_open():
            # Not an admin: a web page in its owner's browser can reach loopback, too.
            return Caller(OPEN_TENANT, namespaces=None)
        credential = shown_credential(headers)
        if credential.startswith(f"{PREFIX}_"):
            return self._watch.caller_of(credential)
        return await self._tokens.caller(credential)

    def caller_again(self, tenant: str, key_id: str) -> Caller:
        """Of who asked for something that is done now. Raises Unauthorized, Unavailable."""
        if not key_id and tenant == OPEN_TENANT and self._is_open():
            return Caller(OPEN_TENANT, namespaces=None)
        return self._watch.caller_again(tenant, key_id)

    def _is_open(self) -> bool:
        return self._open_until_a_tenant and not self._watch.ever_had_a_tenant


def shown_credential(headers: Mapping[str, str]) -> str:
    """Raises Unauthorized where there is none, or more than one."""
    scheme, _, bearer = headers.get("authorization", "").strip().partition(" ")
    shown = {bearer.strip()} if scheme.lower() == "bearer" else set()
    shown = (shown | {headers.get("x-api-key", "").strip()}) - {""}
    if not shown:
        raise Unauthorized(_NONE_SHOWN)
    if len(shown) > 1:
        raise Unauthorized(_TWO_SHOWN)
    credential = shown.pop()
    if len(credential) > LONGEST_CREDENTIAL_CHARS:
        raise Unauthorized(NO_TOKENS)
    return credential
