"""The engine's own error on top of the protocol's."""

from __future__ import annotations

from pilotlight_protocol.errors import Unavailable


class EngineMisconfigured(Unavailable):
    """The engine cannot start with this model, device or these arguments: starting it again cannot help."""

    retryable = False
