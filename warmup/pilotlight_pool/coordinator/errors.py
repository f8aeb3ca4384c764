"""The coordinator's own errors, on top of the protocol's classes.

PilotlightError
└── LeaseGone   410   the lease has ended: released, expired, preempted, or its engine was lost
"""

from __future__ import annotations

from pilotlight_protocol.errors import PilotlightError


class LeaseGone(PilotlightError):
    http_status, grpc_code, openai_type = 410, 5, "not_found_error"
