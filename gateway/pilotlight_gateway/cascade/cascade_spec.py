"""The part `cascade` of a route in the configuration file. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pilotlight_gateway.configuration.section import Section

REFUSALS = ("I'm sorry, but", "I’m sorry, but", "I am sorry, but", "I can't ", "I can’t ", "I cannot ", "As an AI ")


class CascadeSpec(Section, frozen=True):
    """Chat and text completions that neither a version nor a rule takes are answered by `first`, and by the route's
    own targets where that answer refuses (its `refusal`, or it begins with one of `refusals`), is no JSON though JSON
    was asked for, or where the mean log probability of its tokens is below `mean_logprob_below` (none: not judged).

    A stream is held back until `hold_tokens` of its tokens have come, judged by these, and then passed on as it comes:
    of JSON that goes on, the beginning is looked at.
    What a first answer took that nobody got is told, and billed to nobody.
    """

    first: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=16)]
    mean_logprob_below: Annotated[float, msgspec.Meta(le=0)] | None = None
    refusals: tuple[str, ...] = REFUSALS
    invalid_json: bool = True
    hold_tokens: Annotated[int, msgspec.Meta(ge=1, le=256)] = 32
