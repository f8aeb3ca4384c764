"""Which endpoint a name means to a caller, over all that a platform has told of. Pure.

    endpoint            of the caller's own namespace, else the only one of that name that it may use
    namespace/endpoint  that one
    a model's name      as the endpoint's components call it, its adapters' too; read the same two ways

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
        if caller.allowed_models is not None and not self._allows(caller, name):
            return None
        key = self._key_of(caller, name)
        return None if key is None else Target(self._entries[key], self._by_name[name][key])

    def of_namespace(self, name: str) -> Target | None:
        """What `namespace/endpoint` or `namespace/model` means in that namespace, whoever may use it."""
        found = self._by_name.get(name)
        if found is None:
            return None
        namespace = name.partition("/")[0]
        keys = [key for key in found if key[0] == namespace]
        if len(keys) > 1:
            keys = [key for key in keys if f"{namespace}/{key[1]}" == name]
        return Target(self._entries[keys[0]], found[keys[0]]) if len(keys) == 1 else None

    def _allows(self, caller: Caller, name: str) -> bool:
        """One of the endpoint's spellings is allowed to this key, and means the same."""
        allowed = caller.allowed_models or frozenset()
        if name in allowed:
            return True
        key = self._key_of(caller, name)
        if key is None:
            return False
        wanted = self._by_name[name][key]
        return any(self._by_name.get(each, {}).get(key) == wanted for each in allowed)

    def _key_of(self, caller: Caller, name: str) -> EndpointKey | None:
        found = self._by_name.get(name)
        if found is None:
            return None
        if len(found) == 1:
            (only,) = found
            return only if caller.may_use(only[0]) else None
        usable = [key for key in found if caller.may_use(key[0])]
        for choice in (
            [key for key in usable if f"{key[0]}/{key[1]}" == name],
            [key for key in usable if key == (caller.tenant, name)],
            [key for key in usable if key[0] == caller.tenant],
            [key for key in usable if key[1] == name],
            usable,
        ):
            if len(choice) == 1:
                return choice[0]
        return None

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
