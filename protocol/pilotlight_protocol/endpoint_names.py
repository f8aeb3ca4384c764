"""What clients may call an endpoint's models, and who holds a name that two endpoints of a namespace have. Pure.

Who had it first keeps a name, so that neither a new endpoint nor one that is changed takes traffic of another. Of two
that came at the same time it is the endpoint's that is called so, else that of the one whose name comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pilotlight_protocol.endpoint_directory import EndpointEntry


def names_of(entry: EndpointEntry) -> dict[str, list[str]]:
    """The names of each of its models. The endpoint's own stands for the first of them."""
    names: dict[str, list[str]] = {}
    for place, model_name in enumerate(entry.model_names):
        own = [entry.name, f"{entry.namespace}/{entry.name}"] if place == 0 else []
        names[model_name] = list(dict.fromkeys([*own, model_name, f"{entry.namespace}/{model_name}"]))
    return names


def spellings(entry: EndpointEntry) -> Mapping[str, str]:
    """What clients may call its models, each with what its components call that."""
    return {name: model_name for model_name, names in reversed(names_of(entry).items()) for name in names}


def holder(name: str, entries: Iterable[EndpointEntry]) -> EndpointEntry:
    """Of these, which have the name and are of one namespace."""

    def precedence(entry: EndpointEntry) -> tuple[float, bool, str]:
        is_own = name in (entry.name, f"{entry.namespace}/{entry.name}")
        return _since_s(entry, name, is_own=is_own), not is_own, entry.name

    return min(entries, key=precedence)


def _since_s(entry: EndpointEntry, name: str, *, is_own: bool) -> float:
    if is_own or not entry.names_since_s:
        return entry.created_s
    return entry.names_since_s[entry.model_names.index(spellings(entry)[name])]


def held_by_others(entry: EndpointEntry, by_name: Mapping[str, Iterable[EndpointEntry]]) -> dict[str, str]:
    """Names of the endpoint that it does not answer to, each with the endpoint that does. `by_name`: who has each
    name."""
    full = f"{entry.namespace}/"
    held: dict[str, str] = {}
    for name in spellings(entry):
        first = holder(name, [each for each in by_name[name] if each.namespace == entry.namespace])
        if first.key != entry.key:
            held.setdefault(name.removeprefix(full), first.name)
    return held


def told(held: Mapping[str, str]) -> str:
    """For the endpoint's status; "" where it has all its names."""
    return "; ".join(f"the name '{name}' is that of '{first}', which had it first" for name, first in held.items())
