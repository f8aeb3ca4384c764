"""Which event of an answer a client had last: what `id:` lines say, and `Last-Event-ID` gives back. Pure.

    17      the 17th, of who began the answer
    17.2    the 17th, as told by the second one that went on with it where it was cut

So what somebody showed beyond the last event that was kept, and another process made anew behind that, is never taken
for the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from pilotlight_protocol.errors import Conflict, InvalidInput
from pilotlight_wire.handlers import RequestContext

_ID = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,2}))?")

ALL_CUTS = 99
"""Of who has what is kept, and nothing else."""


class LastEvent(NamedTuple):
    """`cuts`: so many times the answer had been cut and gone on with."""

    number: int = 0
    cuts: int = 0

    def check(self, cuts: Sequence[int]) -> None:
        """Against the numbers of events that there were at each cut. Raises Conflict."""
        if self.cuts < len(cuts) and self.number > cuts[self.cuts]:
            raise lost()


def event_id(number: int, cuts: int) -> bytes:
    return b"id: %d.%d\n" % (number, cuts) if cuts else b"id: %d\n" % number


def lost() -> Conflict:
    return Conflict(
        "the last events that you have of this answer were lost with its gateway; ask anew, with another id"
    )


def last_event_asked(context: RequestContext) -> LastEvent:
    """Raises InvalidInput."""
    given = context.headers.get("last-event-id")
    if given is None:
        return LastEvent()
    found = _ID.fullmatch(given)
    if found is None:
        raise InvalidInput("Last-Event-ID must be the number of an event of this answer", param="Last-Event-ID")
    return LastEvent(int(found[1]), int(found[2] or 0))
