"""Typed reading of one mapping of a YAML document: wrong types become errors by path, unread keys are reported.

A reader never raises on bad input: it reports, and gives back the default, so that all faults of a file come at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pilotlight_protocol.nearest_name import did_you_mean
from pilotlight_specs.findings import Report

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TYPE_NAMES = {dict: "a mapping", list: "a list", str: "a string", bool: "true or false", int: "an integer"}


def join_path(path: str, key: str) -> str:
    """`spec` + `model` -> `spec.model`; keys with dots or slashes are quoted: `metadata.annotations["a.b/c"]`."""
    if not _PLAIN_KEY.fullmatch(key):
        return f'{path}["{key}"]'
    return f"{path}.{key}" if path else key


def describe(value: object) -> str:
    """A value's type in the words of YAML, for error messages."""
    if value is None:
        return "nothing"
    return _TYPE_NAMES.get(type(value), f"a {type(value).__name__}")


class Fields:
    """One mapping being read. Every read marks its key as known; `finish` reports the others."""

    def __init__(self, data: Mapping[str, object], path: str, report: Report) -> None:
        self.data = data
        self.path = path
        self.report = report
        self._read: set[str] = set()

    def at(self, key: str) -> str:
        return join_path(self.path, key)

    def present(self, key: str) -> bool:
        return self.data.get(key) is not None

    def text(self, key: str, default: str = "") -> str:
        value = self._take(key, str)
        return value if isinstance(value, str) else default

    def required_text(self, key: str) -> str:
        value = self.text(key)
        if not value and (self.data.get(key) is None or self.data.get(key) == ""):
            self.report.error(self.at(key), "required; set it")
        return value

    def integer(self, key: str, least: int, most: int) -> int | None:
        value = self._take(key, int)
        if not isinstance(value, int):
            return None
        if not least <= value <= most:
            self.report.error(self.at(key), f"must be in [{least}, {most}], was {value}")
            return None
        return value

    def boolean(self, key: str, default: bool = False) -> bool:
        value = self._take(key, bool)
        return value if isinstance(value, bool) else default

    def texts(self, key: str) -> tuple[str, ...]:
        items = self._take(key, list)
        if not isinstance(items, list):
            return ()
        for index, item in enumerate(items):
            if not isinstance(item, str):
                self.report.error(
                    f"{self.at(key)}[{index}]", f"must be a string, was {describe(item)}; put it in quotes"
                )
        return tuple(item for item in items if isinstance(item, str))

    def text_map(self, key: str) -> dict[str, str]:
        items = self._take(key, dict)
        if not isinstance(items, dict):
            return {}
        for name, item in items.items():
            if not isinstance(item, str):
                self.report.error(
                    join_path(self.at(key), str(name)), f"must be a string, was {describe(item)}; put it in quotes"
                )
        return {str(name): item for name, item in items.items() if isinstance(item, str)}

    def mapping(self, key: str) -> Fields | None:
        value = self._take(key, dict)
        return Fields(value, self.at(key), self.report) if isinstance(value, dict) else None

    def mappings(self, key: str) -> tuple[Fields, ...]:
        items = self._take(key, list)
        if not isinstance(items, list):
            return ()
        found = []
        for index, item in enumerate(items):
            path = f"{self.at(key)}[{index}]"
            if isinstance(item, dict):
                found.append(Fields(item, path, self.report))
            else:
                self.report.error(path, f"must be a mapping, was {describe(item)}")
        return tuple(found)

    def raw(self, key: str) -> object:
        self._read.add(key)
        return self.data.get(key)

    def finish(self, unsupported: Mapping[str, str] | None = None) -> None:
        """Report what nobody read: `unsupported` (key -> reason) by its reason, anything else as unknown."""
        for key, value in self.data.items():
            if key in self._read or value is None:
                continue
            if unsupported is not None and key in unsupported:
                self.report.unsupported(self.at(key), unsupported[key])
            else:
                known = (*self._read, *(unsupported or ()))
                self.report.unknown(self.at(str(key)), did_you_mean(str(key), known))

    def _take(self, key: str, kind: type) -> object:
        self._read.add(key)
        value = self.data.get(key)
        if value is None:
            return None
        # bool is an int in Python, not in a CRD.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            hint = "; put it in quotes" if kind is str and not isinstance(value, dict | list) else ""
            self.report.error(self.at(key), f"must be {_TYPE_NAMES[kind]}, was {describe(value)}{hint}")
            return None
        return value
