"""Tokens of those identity providers that the configuration names now. Without one nothing of tokens is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.tenants.authenticators import NO_TOKENS
from pilotlight_gateway.tenants.identity_section import IdentityProvider
from pilotlight_gateway.tenants.tenant_records import TenantRecord
from pilotlight_protocol.errors import Unauthorized

if TYPE_CHECKING:
    from pilotlight_gateway.tenants.identity_tokens import IdentityTokens


class ConfiguredTokens:
    """Implements TokenAuthenticator. `tenant`: who is known by a name."""

    def __init__(self, tenant: Callable[[str], TenantRecord | None]) -> None:
        self._tenant = tenant
        self._providers: tuple[IdentityProvider, ...] = ()
        self._tokens: IdentityTokens | None = None

    def apply(self, providers: tuple[IdentityProvider, ...]) -> None:
        if providers == self._providers:
            return
        if self._tokens is not None:
            self._tokens.end()
            self._tokens = None
        self._providers = providers
        if providers:
            from pilotlight_gateway.tenants.identity_tokens import IdentityTokens
            from pilotlight_gateway.tenants.jwks_fetch import fetch_keys

            self._tokens = IdentityTokens(providers, self._tenant, fetch_keys)

    async def caller(self, token: str) -> Caller:
        if self._tokens is None:
            raise Unauthorized(NO_TOKENS)
        return await self._tokens.caller(token)
