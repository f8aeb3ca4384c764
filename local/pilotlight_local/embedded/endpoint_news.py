"""What has changed of the endpoints since a version, for whoever watches them (the gateway).

Must not: know how entries are made, or who asks.
"""

import asyncio
import contextlib
from collections import OrderedDict

from pilotlight_protocol.endpoint_directory import LONGEST_WAIT_S, DirectoryAnswer, EndpointEntry
from pilotlight_protocol.endpoint_names import held_by_others, spellings
from pilotlight_protocol.endpoint_orders import NewsPlace

_Key = tuple[str, str]
# A watcher that missed more than this is told everything.
GONE_KEPT = 4096


class EndpointNews:
    """`epoch` tells this directory from one of another run. Belongs to one event loop."""

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self._version = 0
        self._entries: OrderedDict[_Key, tuple[int, EndpointEntry]] = OrderedDict()
        """Those that changed last stand last."""
        self._gone: OrderedDict[_Key, int] = OrderedDict()
        self._forgotten_version = 0
        self._changed = asyncio.Event()

    def tell(self, entry: EndpointEntry) -> None:
        """Nothing happens when it is known like that."""
        known = self._entries.get(entry.key)
        if known is not None and known[1] == entry:
            return
        self._version += 1
        self._entries[entry.key] = self._version, entry
        self._entries.move_to_end(entry.key)
        self._gone.pop(entry.key, None)
        self._wake()

    def remove(self, namespace: str, name: str) -> None:
        if self._entries.pop((namespace, name), None) is None:
            return
        self._version += 1
        self._gone[namespace, name] = self._version
        while len(self._gone) > GONE_KEPT:
            _, self._forgotten_version = self._gone.popitem(last=False)
        self._wake()

    @property
    def place(self) -> NewsPlace:
        """Where the last change stands."""
        return NewsPlace(self._epoch, self._version)

    async def after(self, epoch: str, version: int, wait_s: float) -> DirectoryAnswer:
        """What changed since, waiting for it at most so long."""
        if epoch == self._epoch and version == self._version:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, LONGEST_WAIT_S)):
                    await self._changed.wait()
        if epoch != self._epoch or not self._forgotten_version <= version <= self._version:
            entries = tuple(entry for _, entry in self._entries.values())
            return DirectoryAnswer(self._epoch, self._version, whole=True, changed=entries)
        changed = []
        for at, entry in reversed(self._entries.values()):
            if at <= version:
                break
            changed.append(entry)
        gone = tuple(key for key, at in self._gone.items() if at > version)
        return DirectoryAnswer(self._epoch, self._version, whole=False, changed=tuple(changed), gone=gone)

    def held_by_others(self) -> dict[_Key, dict[str, str]]:
        """Of each endpoint the names that mean another one, each with that one; of most there are none."""
        having: dict[str, list[EndpointEntry]] = {}
        entries = [entry for _, entry in self._entries.values()]
        for entry in entries:
            for name in spellings(entry):
                having.setdefault(name, []).append(entry)
        return {entry.key: held for entry in entries if (held := held_by_others(entry, having))}

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
