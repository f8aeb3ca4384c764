"""The configuration's `identity_providers`: whose tokens are taken, and what their claims mean here. Pure."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from pilotlight_gateway.configuration.section import Section
from pilotlight_gateway.request_steps import PriorityClass

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Only those with a public key: a shared secret would make everybody who can check a token able to write one."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


class IdentityProvider(Section, frozen=True):
    """Tokens of `issuer` for `audience`, signed by a key of `jwks_url`.

    A claim is named as it is, or by the way to it (`realm_access.roles`). `tenant_claim` names the tenant, as
    `tenants` translates it where that is not empty. A token with one of `admin_values` in `role_claim` is an admin's.
    `priority_claim`: the highest priority, by `priorities`; it never goes above the tenant's.
    `longest_life_s`: what is valid for longer from now on is refused: no token can be taken back.
    """

    issuer: Text
    audience: Text
    jwks_url: Text
    algorithms: Annotated[tuple[Algorithm, ...], msgspec.Meta(min_length=1)] = ("RS256", "ES256")
    leeway_s: Annotated[float, msgspec.Meta(ge=0, le=300)] = 30.0
    longest_life_s: Annotated[float, msgspec.Meta(gt=0)] = 86_400.0
    refresh_s: Annotated[float, msgspec.Meta(ge=10, le=86_400)] = 300.0
    tenant_claim: Text = "tenant"
    tenants: dict[str, str] = msgspec.field(default_factory=dict)
    role_claim: str = ""
    admin_values: tuple[str, ...] = ()
    priority_claim: str = ""
    priorities: dict[str, PriorityClass] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        url = urlsplit(self.jwks_url)
        if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOOPBACK):
            raise ValueError("jwks_url must be https://, or http:// to this machine")
        if not url.hostname or url.username is not None:
            raise ValueError("jwks_url must have a host, and no user")
        if bool(self.role_claim) != bool(self.admin_values):
            raise ValueError("role_claim and admin_values belong together")
        if bool(self.priority_claim) != bool(self.priorities):
            raise ValueError("priority_claim and priorities belong together")


def check_providers(providers: tuple[IdentityProvider, ...]) -> None:
    """Raises ValueError for two of one issuer."""
    issuers = [provider.issuer for provider in providers]
    if len(set(issuers)) < len(issuers):
        raise ValueError("each issuer may stand in identity_providers once")
