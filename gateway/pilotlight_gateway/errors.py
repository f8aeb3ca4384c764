"""Errors that several of the gateway's steps answer with, worded once."""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight_protocol.errors import ModelNotFound, Unavailable

_NAME_SHOWN_CHARS = 200
_FULL_NAMES_SHOWN = 5


def no_such_model(name: str, version: str = "", full_names: Sequence[str] = ()) -> ModelNotFound:
    """Also for one that the caller may not use: what others have is told from nothing in nothing. `full_names`: what it
    may write instead."""
    if full_names:
        instead = " or ".join(f"'{each[:_NAME_SHOWN_CHARS]}'" for each in full_names[:_FULL_NAMES_SHOWN])
        return ModelNotFound(
            f"The model '{name[:_NAME_SHOWN_CHARS]}' is named with its namespace: write {instead}", param="model"
        )
    of_version = f" has no version '{version[:_NAME_SHOWN_CHARS]}'" if version else " does not exist"
    return ModelNotFound(
        f"The model '{name[:_NAME_SHOWN_CHARS]}'{of_version}; GET /v1/models lists what there is", param="model"
    )


def nothing_known_yet() -> Unavailable:
    return Unavailable("the gateway has not heard of any endpoints yet; try again", retry_after_s=1)
