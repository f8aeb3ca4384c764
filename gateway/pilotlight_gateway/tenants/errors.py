"""What the administration of tenants answers with beside the protocol's classes."""

from __future__ import annotations

from pilotlight_protocol.errors import ModelNotFound


class TenantNotFound(ModelNotFound):
    code = "tenant_not_found"


class KeyNotFound(ModelNotFound):
    code = "key_not_found"
