"""A request's id: the caller's when it is fit to be logged and sent on, else a new one."""

from __future__ import annotations

import re
import uuid

_FIT = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch


def request_id(given: str | None) -> str:
    """`given` when it is 1 to 128 characters of letters, digits and `._:/+=@-`; else 32 hexadecimal digits."""
    if given is not None and _FIT(given):
        return given
    return uuid.uuid4().hex
