"""What orders of endpoints are answered with beside the protocol's classes."""

from __future__ import annotations

from pilotlight_protocol.errors import Conflict, Forbidden, ModelNotFound


class EndpointNotFound(ModelNotFound):
    code = "endpoint_not_found"


class NotThatGeneration(Conflict):
    """If-Match names another one than there is."""

    http_status, grpc_code = 412, 9


class QuotaReached(Forbidden):
    """Waiting does not help, deleting does."""

    code = "endpoint_quota_reached"
