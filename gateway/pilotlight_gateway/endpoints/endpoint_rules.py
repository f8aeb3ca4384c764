"""What an operator lets tenants do with endpoints: a section of the config file. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pilotlight_gateway.configuration.section import Section
from pilotlight_gateway.tenants.tenant_records import TenantRecord

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]

PUBLIC_SOURCES = ("hf://", "bundled://", "https://")
"""What needs nothing of this machine's but its network. A hub token of the server's is used for all of them."""


class EndpointRules(Section, frozen=True):
    """`sources`: what the URI of a model or adapter may begin with (`s3://acme-models/`, `file:///srv/models/`): object
    stores are read with the server's own credentials, and folders are its own. `most_endpoints` and `most_replicas`: of
    each tenant, and of each endpoint of it. `public_url`: where clients reach the gateway, the request's own `Host`
    without one."""

    sources: tuple[str, ...] = PUBLIC_SOURCES
    most_endpoints: Count = 100
    most_replicas: Count = 8
    public_url: str = ""

    def of(self, tenant: TenantRecord | None) -> EndpointRules:
        """With what is the tenant's own."""
        if tenant is None:
            return self
        endpoints, replicas = tenant.settings.max_endpoints, tenant.settings.max_replicas
        if endpoints is None and replicas is None:
            return self
        return msgspec.structs.replace(
            self,
            most_endpoints=self.most_endpoints if endpoints is None else endpoints,
            most_replicas=self.most_replicas if replicas is None else replicas,
        )
