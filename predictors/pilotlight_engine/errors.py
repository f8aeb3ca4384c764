"""The engine's own errors on top of the protocol's."""

from __future__ import annotations

from pilotlight_protocol.errors import Unavailable


class EngineMisconfigured(Unavailable):
    """The engine cannot start with this model, device or these arguments: starting it again cannot help."""

    retryable = False


class SwapNotPossible(Unavailable):
    """The model cannot be swapped in; nothing was touched and the old one is still served."""

    retryable = False


class SwapBroken(Unavailable):
    """A swap failed half-way: the engine must end, it holds neither model."""
