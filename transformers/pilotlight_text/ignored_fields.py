"""Request bodies with fields that nobody knows, or that this model's chat template does not read: they are answered all
the same, and it is said which were left out.

A client may be newer than this server, or may have mistyped a name: both find it in `IGNORED_HEADER`, the operator in
the log, once per name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from pilotlight_protocol.nearest_name import did_you_mean
from pilotlight_wire.handlers import RequestContext

IGNORED_HEADER = "x-pilotlight-ignored-fields"
MOST_NAMES_SHOWN = 16
MOST_NAMES_LOGGED = 256

T = TypeVar("T", bound=msgspec.Struct)

_log = logging.getLogger("pilotlight.text")
_UNFIT_FOR_HEADER = re.compile(r"[^A-Za-z0-9_.\[\]-]")
_PLACE = re.compile(r"\[\d+\]")
_logged: set[str] = set()


class UnknownFields(Generic[T]):
    """Finds names that `kind` has no field for. `strict`: the same struct, which forbids them, where bodies are to be
    decoded here; `nested`: fields that are structs themselves."""

    def __init__(
        self, kind: type[T], strict: type[T] | None = None, nested: Mapping[str, type[msgspec.Struct]] | None = None
    ) -> None:
        self._kind = kind
        self._strict = msgspec.json.Decoder(strict or kind)
        self._nested = nested or {}

    def known(self, body: bytes) -> T | None:
        """The decoded body; None when it is not valid or holds a name that is not known."""
        try:
            return self._strict.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None

    def names(self, body: bytes) -> tuple[str, ...]:
        """Of a body that is valid but for such names, `stream_options.name` for a nested one."""
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        unknown = [name for name in fields if name not in self._kind.__struct_fields__]
        for outer, kind in self._nested.items():
            inner = msgspec.json.decode(fields.get(outer, b"null"), type=dict[str, msgspec.Raw] | None) or {}
            unknown += [f"{outer}.{name}" for name in inner if name not in kind.__struct_fields__]
        return tuple(unknown)

    def note_in(self, body: bytes, context: RequestContext) -> None:
        """Of a body that was taken; it costs a look at its names."""
        self.note(self.names(body), context)

    def note(self, names: Sequence[str], context: RequestContext) -> None:
        """Tell the client and the log of `names` that were left out."""
        for name in _told(names, context):
            hint = did_you_mean(name, self._kind.__struct_fields__)
            _log.warning("requests name a field '%s', which nobody here knows: it is ignored%s", name, hint)


def note_unseen(names: Sequence[str], context: RequestContext) -> None:
    """Of fields that this model's chat template does not read."""
    for name in _told(names, context):
        _log.warning("requests have '%s', which this model's chat template does not read: it is ignored", name)


def _told(names: Sequence[str], context: RequestContext) -> list[str]:
    """Those of `names` that are to be logged: a place in a list makes no other name."""
    if not names:
        return []
    shown = [_UNFIT_FOR_HEADER.sub("?", name)[:64] for name in names[:MOST_NAMES_SHOWN]]
    before = context.response_headers.get(IGNORED_HEADER)
    context.response_headers[IGNORED_HEADER] = ", ".join([before, *shown] if before else shown)
    new = []
    for name in (_PLACE.sub("[]", name) for name in shown):
        if name not in _logged and len(_logged) < MOST_NAMES_LOGGED:
            _logged.add(name)
            new.append(name)
    return new
