"""Which endpoint a name means to a caller, over all that a platform has told of. Pure.

    namespace/name  in that namespace, where the caller may use it, and nowhere else
    name            in the caller's own namespace, else in the first one that an operator listed for it

`name` is an endpoint's, or a model's as the endpoint's components call it, an adapter's too. Where two endpoints of one
namespace have it, it is that of whoever had it first (`pilotlight_protocol.endpoint_names`). So what comes or goes in
another namespace never changes what a name means. A caller that may use all there is has no list: a name means what it
means in the only namespace that has it.

An endpoint that the caller may not use is told from none in nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pilotlight_gateway.request_steps import Caller
from pilotlight_protocol.endpoint_directory import DirectoryAnswer, EndpointEntry
from pilotlight_protocol.endpoint_names import held_by_others, holder, names_of, spellings

EndpointKey = tuple[str, str]
_Having = dict[str, dict[str, str]]
"""Who has a name: by namespace and endpoint, each with what the endpoint's components call the model."""


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
        self._by_name: dict[str, _Having] = {}
        self._names_in: dict[str, set[str]] = {}
        """Those of a namespace's endpoints."""
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
            self._names_in.setdefault(entry.namespace, set()).add(entry.name)
            for name, model_name in spellings(entry).items():
                self._by_name.setdefault(name, {}).setdefault(entry.namespace, {})[entry.name] = model_name
        self.known, self.epoch, self.version = True, answer.epoch, answer.version
        for listener in self._listeners:
            listener(changed)

    def _remove(self, key: EndpointKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        for name in spellings(entry):
            having = self._by_name[name]
            del having[entry.namespace][entry.name]
            if not having[entry.namespace]:
                del having[entry.namespace]
            if not having:
                del self._by_name[name]
        names = self._names_in[entry.namespace]
        names.discard(entry.name)
        if not names:
            del self._names_in[entry.namespace]

    def find(self, caller: Caller, name: str) -> Target | None:
        meant = self._meant(caller, name)
        if meant is None or (caller.allowed_models is not None and not self._allows(caller, name, meant)):
            return None
        key, model_name = meant
        return Target(self._entries[key], model_name)

    def full_names(self, caller: Caller, name: str) -> list[str]:
        """What the caller may write in place of a name that means nothing to it."""
        found = self._by_name.get(name, {})
        full = sorted(f"{namespace}/{name}" for namespace in found if caller.may_use(namespace))
        return [each for each in full if self.find(caller, each) is not None]

    def of_namespace(self, name: str) -> Target | None:
        """What `namespace/endpoint` or `namespace/model` means in that namespace, whoever may use it."""
        meant = self._held(self._by_name.get(name, {}), name.partition("/")[0], name)
        return None if meant is None else Target(self._entries[meant[0]], meant[1])

    def holder_of(self, namespace: str, name: str) -> str | None:
        """The endpoint that the name means in this namespace."""
        meant = self._held(self._by_name.get(name, {}), namespace, name)
        return None if meant is None else meant[0][1]

    def held_by_others(self, key: EndpointKey) -> dict[str, str]:
        """Names of an endpoint that it does not answer to, each with the endpoint of its namespace that does."""
        entry = self._entries.get(key)
        if entry is None:
            return {}
        namespace = entry.namespace
        return held_by_others(
            entry,
            {
                name: [self._entries[namespace, each] for each in self._by_name[name][namespace]]
                for name in spellings(entry)
            },
        )

    def _allows(self, caller: Caller, name: str, meant: tuple[EndpointKey, str]) -> bool:
        """One of the names that are allowed to this key means the same to it."""
        allowed = caller.allowed_models or frozenset()
        return name in allowed or any(self._meant(caller, each) == meant for each in allowed)

    def _meant(self, caller: Caller, name: str) -> tuple[EndpointKey, str] | None:
        found = self._by_name.get(name)
        if found is None:
            return None
        namespace = _namespace_meant(caller, name, found)
        return None if namespace is None else self._held(found, namespace, name)

    def _held(self, found: _Having, namespace: str, name: str) -> tuple[EndpointKey, str] | None:
        having = found.get(namespace)
        if having is None:
            return None
        if len(having) == 1:
            ((endpoint, model_name),) = having.items()
            return (namespace, endpoint), model_name
        first = holder(name, [self._entries[namespace, each] for each in having])
        return first.key, having[first.name]

    def names(self, caller: Caller) -> Iterator[tuple[str, EndpointEntry]]:
        """Every model that the caller may ask for, by its shortest name that means it."""
        namespaces = self._names_in if caller.namespaces is None else {caller.tenant, *caller.namespaces}
        known = (
            self._entries[each, name] for each in sorted(namespaces) for name in sorted(self._names_in.get(each, ()))
        )
        for entry in known:
            for model_name, names in names_of(entry).items():
                for name in names:
                    if self.find(caller, name) == Target(entry, model_name):
                        yield name, entry
                        break


def _namespace_meant(caller: Caller, name: str, found: _Having) -> str | None:
    """Must not depend on what other namespaces have, where an operator listed them."""
    prefix, slash, _ = name.partition("/")
    of_prefix = bool(slash) and caller.may_use(prefix)
    if caller.namespaces is not None:
        if of_prefix:
            return prefix
        if caller.tenant in found:
            return caller.tenant
        return next((each for each in caller.namespaces if each != caller.tenant), None)
    for namespace in (prefix, caller.tenant) if of_prefix else (caller.tenant,):
        if namespace in found:
            return namespace
    return next(iter(found)) if len(found) == 1 else None
