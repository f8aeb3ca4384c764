"""What every part of the configuration file is made of. Pure.

A section's struct stands in the package whose behaviour it changes, with its defaults and, in `__post_init__`, with
what makes a value wrong (ValueError: the message is shown with the place in the file). It gets a field in
`gateway_config.GatewayConfig`; whoever needs it while requests run asks `CurrentConfig.tell` to be told of it.
"""

from __future__ import annotations

import msgspec


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A field that nobody knows is refused by its name."""
