"""Which endpoint a name means to a caller, over all that a platform has told of. Pure.

    namespace/name  in that namespace, where the caller may use it, and nowhere else
    name            in the caller's own namespace, else in the first one that an operator listed for it

`name` is an endpoint's, or a model's as the endpoint's components call it, an adapter's too. So what comes or goes in
another namespace never changes what a name means. A caller that may use all there is has no list: a name means what it
means in the only namespace that has it.

An endpoint that the caller may not use is told from none in nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pilotlight_gateway.request_steps import Caller
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry

EndpointKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """`model_name`: as the endpoint's components call what was asked for."""

    entry: EndpointEntry
    model_name: str


class EndpointTable:
    """`known` from the first answer on. `epoch` and `version`: of the last one."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[set[EndpointKey]], None]] = []
        self._entries: dict[EndpointKey, EndpointEntry] = {}
        self._by_name: dict[str, dict[EndpointKey, str]] = {}
        self.epoch = ""
        self.version = 0
        self.known = False

    def subscribe(self, listener: Callable[[set[EndpointKey]], None]) -> None:
        """It is called after each answer, with the keys whose entries are others now, or none."""
        self._listeners.append(listener)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: EndpointKey) -> EndpointEntry | None:
        return self._entries.get(key)

    def apply(self, answer: DirectoryAnswer) -> None:
        changed = {entry.key for entry in answer.changed} | set(answer.gone)
        gone = set(answer.gone)
        if answer.whole or answer.epoch != self.epoch:
            gone |= self._entries.keys() - {entry.key for entry in answer.changed}
            changed |= gone
        for key in gone - {entry.key for entry in answer.changed}:
            self._remove(key)
        for entry in answer.changed:
            if self._entries.get(entry.key) == entry:
                changed.discard(entry.key)
                continue
            self._remove(entry.key)
            self._entries[entry.key] = entry
            for name, model_name in spellings(entry).items():
                self._by_name.setdefault(name, {})[entry.key] = model_name
        self.known, self.epoch, self.version = True, answer.epoch, answer.version
        for listener in self._listeners:
            listener(changed)

    def _remove(self, key: EndpointKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        for name in spellings(entry):
            del self._by_name[name][key]
            if not self._by_name[name]:
                del self._by_name[name]

    def find(self, caller: Caller, name: str) -> Target | None:
        meant = self._meant(caller, name)
        if meant is None or (caller.allowed_models is not None and not self._allows(caller, name, meant)):
            return None
        key, model_name = meant
        return Target(self._entries[key], model_name)

    def full_names(self, caller: Caller, name: str) -> list[str]:
        """What the caller may write in place of a name that means nothing to it."""
        found = self._by_name.get(name, {})
        full = sorted({f"{namespace}/{name}" for namespace, _ in found if caller.may_use(namespace)})
        return [each for each in full if self.find(caller, each) is not None]

    def of_namespace(self, name: str) -> Target | None:
        """What `namespace/endpoint` or `namespace/model` means in that namespace, whoever may use it."""
        found = self._by_name.get(name)
        if found is None:
            return None
        key = _only(found, name.partition("/")[0], name)
        return None if key is None else Target(self._entries[key], found[key])

    def _allows(self, caller: Caller, name: str, meant: tuple[EndpointKey, str]) -> bool:
        """One of the names that are allowed to this key means the same to it."""
        allowed = caller.allowed_models or frozenset()
        return name in allowed or any(self._meant(caller, each) == meant for each in allowed)

    def _meant(self, caller: Caller, name: str) -> tuple[EndpointKey, str] | None:
        found = self._by_name.get(name)
        if found is None:
            return None
        namespace = _namespace_meant(caller, name, found)
        key = None if namespace is None else _only(found, namespace, name)
        return None if key is None else (key, found[key])

    def names(self, caller: Caller) -> Iterator[tuple[str, EndpointEntry]]:
        """Every model that the caller may ask for, by its shortest name that means it."""
        for key, entry in sorted(self._entries.items()):
            if not caller.may_use(key[0]):
                continue
            for model_name, names in _names_of(entry).items():
                for name in names:
                    if self.find(caller, name) == Target(entry, model_name):
                        yield name, entry
                        break


def _namespace_meant(caller: Caller, name: str, found: Mapping[EndpointKey, str]) -> str | None:
    """Must not depend on what other namespaces have, where an operator listed them."""
    prefix, slash, _ = name.partition("/")
    of_prefix = bool(slash) and caller.may_use(prefix)
    if caller.namespaces is not None:
        if of_prefix:
            return prefix
        if any(namespace == caller.tenant for namespace, _ in found):
            return caller.tenant
        return next((each for each in caller.namespaces if each != caller.tenant), None)
    having = {namespace for namespace, _ in found}
    for namespace in (prefix, caller.tenant) if of_prefix else (caller.tenant,):
        if namespace in having:
            return namespace
    return having.pop() if len(having) == 1 else None


def _only(found: Mapping[EndpointKey, str], namespace: str, name: str) -> EndpointKey | None:
    """The endpoint that has the name in the namespace: one that is called so, else the only one with such a model."""
    keys = [key for key in found if key[0] == namespace]
    if len(keys) > 1:
        keys = [key for key in keys if name in (key[1], f"{namespace}/{key[1]}")]
    return keys[0] if len(keys) == 1 else None


def spellings(entry: EndpointEntry) -> Mapping[str, str]:
    """What clients may call its models, each with what its components call that."""
    return {name: model_name for model_name, names in reversed(_names_of(entry).items()) for name in names}


def _names_of(entry: EndpointEntry) -> dict[str, list[str]]:
    """The endpoint's own name stands for the first of its models."""
    names: dict[str, list[str]] = {}
    for place, model_name in enumerate(entry.model_names):
        own = [entry.name, f"{entry.namespace}/{entry.name}"] if place == 0 else []
        names[model_name] = list(dict.fromkeys([*own, model_name, f"{entry.namespace}/{model_name}"]))
    return names
