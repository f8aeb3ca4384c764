"""By which of its own names a client hears that its constraint is refused. Pure.

Below the surfaces every constraint is `structured_outputs`; who asked with `response_format` or `tools` knows no such.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pilotlight_protocol.errors import InvalidInput

CONSTRAINT = "structured_outputs"


def rename(refused: InvalidInput, field: str) -> None:
    """Where it is a constraint that is refused, it is refused as `field`."""
    if refused.param == CONSTRAINT != field:
        refused.message, refused.param = f"'{field}': {refused.message}", field
        refused.args = (refused.message,)


@contextlib.contextmanager
def asked_as(field: str) -> Iterator[None]:
    """What is refused of a constraint within is refused as `field`."""
    try:
        yield
    except InvalidInput as refused:
        rename(refused, field)
        raise
