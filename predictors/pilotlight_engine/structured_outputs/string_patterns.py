"""What a string must look like, as patterns that xgrammar and llguidance read alike. Pure.

xgrammar takes a pattern for the whole of a string's JSON, and (0.2.8) goes wrong where something that repeats stands in
a group with alternatives or in one that may be left out: `^a(\\.\\d+)?$` lets `a1` through. So inside of groups nothing
here repeats but `{n}` times or once at most (held against Python's `re` in tests/integration/test_backend_grammars.py).
"""

from __future__ import annotations

import re

_DATE = (
    r"[12]\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d\d?\d?\d?\d?\d?)?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d{2}|[1-9]?\d)"
_DIGIT = "[0-9a-fA-F]"
_HEXTET = f"{_DIGIT}{_DIGIT}?{_DIGIT}?{_DIGIT}?"
_LAST_HEXTETS = rf"(?:{_HEXTET}:{_HEXTET}|{_OCTET}(?:\.{_OCTET}){{3}})"


def _before_gap(most: int) -> str:
    """Up to `most` hextets."""
    return f"(?:{f'(?:{_HEXTET}:)?' * (most - 1)}{_HEXTET})?"


_IPV6 = "|".join(
    (
        rf"(?:{_HEXTET}:){{6}}{_LAST_HEXTETS}",
        rf"::(?:{_HEXTET}:){{5}}{_LAST_HEXTETS}",
        *(rf"{_before_gap(before)}::(?:{_HEXTET}:){{{5 - before}}}{_LAST_HEXTETS}" for before in range(1, 5)),
        rf"{_before_gap(5)}::{_LAST_HEXTETS}",
        rf"{_before_gap(6)}::{_HEXTET}",
        rf"{_before_gap(7)}::",
    )
)
"""RFC 3986's IPv6address, row by row."""
FORMAT_PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "ipv4": rf"^{_OCTET}(?:\.{_OCTET}){{3}}$",
    "ipv6": f"^(?:{_IPV6})$",
}
"""Of those that a backend takes more widely: xgrammar knows no month's length, and takes zeros before a number;
llguidance knows no leap year."""
JSON_CHARACTER = r"[\x20\x21\x23-\x5b\x5d-\x7e\x80-\ud7ff\ue000-\U0010ffff]"
"""As a string's JSON has it without escapes. With them beside it, in an alternative, a mask takes 30 ms of everybody's
step instead of none. Not written as what it is not: xgrammar then lets bytes through that are no UTF-8."""

_SAFE = r"[A-Za-z0-9 _@:,;=%&!~<>'#+-]"
_CLASS = rf"\[(?:{_SAFE}|\\[dw.+-]|[.*?()$|/])+\]"
_PLAIN = re.compile(rf"{_CLASS}|{_SAFE}|/|\\[dw.+*?()|$/-]|\((?:\?:|(?!\?))|[)|*+?]|\{{\d{{1,4}}(?:,\d{{0,4}})?\}}")
_REPEATS = re.compile(r"[*+]|\{.*,.*\}")


_ESCAPED = re.compile(r"\\.", re.DOTALL)
_ANY_CLASS = re.compile(r"\[\^?[^\]]*\]")


_ITEM = re.compile(r"\\.|\[\^?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_KNOWN_ESCAPES = frozenset("dDwWsStnrfvxu")
_LINE_CHARACTER = r"[\x01-\x09\x0b-\ud7ff\ue000-\U0010ffff]"


def check_pattern(pattern: str) -> None:
    """Raises ValueError: llguidance's language reads it otherwise than JSON Schema's (ECMAScript's) and Python's do."""
    bare = _ESCAPED.sub("x", pattern)
    if any("[" in found[1:] for found in _ANY_CLASS.findall(bare)):
        raise ValueError(f"the pattern {pattern[:80]!r} has a '[' inside of a class; write it '\\[' if it is meant")
    if re.search(r"[*+?}]\+", _ANY_CLASS.sub("x", bare)):
        raise ValueError(f"the pattern {pattern[:80]!r} repeats a repetition")


def is_read_alike(pattern: str) -> bool:
    try:
        check_pattern(pattern)
    except ValueError:
        return False
    return True


def written_regex(pattern: str) -> str | None:
    """A regular expression as xgrammar enforces it; None for one with what it would take for something else.

    It takes an escape that it does not know for its letter, passes over an anchor that is not at an end, and means a
    line's end, too, by `.`.
    """
    items = _ITEM.findall(pattern)
    written, depth = [], 0
    for place, item in enumerate(items):
        letters = [escape[1] for escape in _ESCAPED.findall(item) if escape[1].isalnum()]
        if not _KNOWN_ESCAPES.issuperset(letters) or item in ("[]", "[^]"):
            return None
        depth += (item == "(") - (item == ")")
        if item == "^" and place and (depth or items[place - 1] != "|"):
            return None
        if item == "$" and place < len(items) - 1 and (depth or items[place + 1] != "|"):
            return None
        written.append(_LINE_CHARACTER if item == "." else item)
    return "".join(written)


def is_plain_pattern(pattern: str) -> bool:
    """Whether it says what the whole string is, with nothing that JSON writes otherwise, and as xgrammar enforces it:
    what it lets through may be a quote or a control character."""
    if not (pattern.startswith("^") and pattern.endswith("$") and not pattern.endswith("\\$")):
        return False
    rest, depth, before = pattern[1:-1], 0, ""
    while rest:
        found = _PLAIN.match(rest)
        if found is None:
            return False
        item, rest = found[0], rest[found.end() :]
        # `x+?` matches no less than `x+`; any other quantifier of a quantifier means something else in each language.
        if item[0] in "*+?{" and (not before or before[0] in "(|?{*+") and not (item == "?" and before in ("*", "+")):
            return False
        if depth and _REPEATS.fullmatch(item):
            return False
        depth += item.startswith("(") - (item == ")")
        # An anchor at the pattern's end belongs to its last branch only.
        if depth < 0 or (item == "|" and depth == 0):
            return False
        before = item
    return depth == 0
