"""Tokens of identity providers (OIDC, JWT): from a token to its caller. PyJWT checks signature, issuer and audience.

Which provider is asked is read from the token before anything of it is believed; it is then held to that provider's
keys, algorithms and issuer. What was found good is remembered until it expires, as long as the keys stay the same; the
tenant that it names is looked up each time. No token, and no part of one, gets into an error or a log.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import msgspec

from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.tenants.identity_section import IdentityProvider
from pilotlight_gateway.tenants.signing_keys import Fetch, SigningKeys
from pilotlight_gateway.tenants.tenant_records import TenantRecord
from pilotlight_gateway.tenants.token_claims import caller_of, tenant_named, valid_until_s
from pilotlight_protocol.errors import Forbidden, Unauthorized

MOST_REMEMBERED = 4_096
_BAD = "this token is not valid here: its issuer, audience, signature or form is not what is asked for"
_OPTIONS: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["exp", "iss", "aud"]}


class _Remembered(msgspec.Struct, frozen=True):
    until_s: float
    provider: IdentityProvider
    claims: dict[str, Any]


class IdentityTokens:
    """Implements TokenAuthenticator. `tenant`: who is known by a name."""

    def __init__(
        self,
        providers: tuple[IdentityProvider, ...],
        tenant: Callable[[str], TenantRecord | None],
        fetch: Fetch,
        wall_s: Callable[[], float] = time.time,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tenant = tenant
        self._wall_s = wall_s
        self._remembered: dict[bytes, _Remembered] = {}
        self._providers = {
            provider.issuer: (
                provider,
                SigningKeys(provider.jwks_url, provider.refresh_s, fetch, now_s, self._remembered.clear),
            )
            for provider in providers
        }

    def end(self) -> None:
        for _, keys in self._providers.values():
            keys.end()

    async def caller(self, token: str) -> Caller:
        """Raises Unauthorized, Forbidden, Unavailable."""
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        known = self._remembered.get(digest)
        if known is None or self._wall_s() >= known.until_s or not self._providers[known.provider.issuer][1].are_good():
            known = await self._checked(token)
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[digest] = known
        tenant = self._tenant(tenant_named(known.claims, known.provider))
        if tenant is None:
            raise Forbidden(f"the token's claim '{known.provider.tenant_claim}' names no tenant that is known here")
        return caller_of(known.claims, known.provider, tenant)

    async def _checked(self, token: str) -> _Remembered:
        try:
            header, issuer = _unchecked(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Unauthorized(_BAD) from None
        provider, keys = self._providers.get(issuer, (None, None))
        algorithm, key_id = header.get("alg"), header.get("kid")
        if provider is None or keys is None or algorithm not in provider.algorithms or "crit" in header:
            raise Unauthorized(_BAD)
        key = await keys.find(key_id, algorithm)
        if key is None:
            raise Unauthorized(_BAD)
        try:
            claims = jwt.decode(
                token,
                key.public_key,
                algorithms=[algorithm],
                audience=provider.audience,
                issuer=provider.issuer,
                options=_OPTIONS,
            )
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Unauthorized(_BAD) from None
        return _Remembered(valid_until_s(claims, provider, self._wall_s()), provider, claims)


def _unchecked(token: str) -> tuple[Mapping[str, Any], str]:
    """The header and the issuer as the token tells them. Raises PyJWTError, ValueError."""
    header = jwt.get_unverified_header(token)
    issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
    if not isinstance(issuer, str) or not isinstance(header.get("kid"), str | None):
        raise ValueError
    return header, issuer
