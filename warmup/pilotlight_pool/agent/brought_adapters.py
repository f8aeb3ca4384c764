"""What an adapter that a lease brings means for its engine: the rank class it boots for, and the room that takes.

Blocking and thread-safe. What was read is kept per content of adapter and base; a refusal is found anew each time.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from pilotlight_engine.boot import adapter_check, checkpoint_check
from pilotlight_engine.boot.lora import checked_adapter
from pilotlight_models.checkpoint import Checkpoint, read_checkpoint
from pilotlight_protocol.adapters import AT_ONCE, kept, rank_class

_log = logging.getLogger(__name__)
_REMEMBERED = 1024
_ELEMENT_BYTES = 2


@dataclass(frozen=True)
class Brought:
    """`rank`: its class, 0 without an adapter. `room_bytes`: for all the adapters of an engine of that class."""

    key: str = ""
    rank: int = 0
    room_bytes: int = 0


class BroughtAdapters:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Brought] = OrderedDict()

    def described(
        self, identity: str, folder: Path, base_identity: str, base_folder: Path, base_uri: str, uri: str
    ) -> Brought:
        """Raises InvalidInput: it cannot be served with this base, and why."""
        with self._lock:
            known = self._known.get((identity, base_identity))
        if known is not None:
            return known
        base = read_checkpoint(base_folder)
        config = checked_adapter(folder, base).config
        if other := adapter_check.other_base(config, base_uri):
            _log.warning("adapter %s was trained on %r, and is served with %s", uri, other, base_uri)
        rank = rank_class(adapter_check.rank(config))
        brought = Brought(identity, rank, _room_bytes(base, rank))
        with self._lock:
            self._known[identity, base_identity] = brought
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return brought


def _room_bytes(base: Checkpoint, rank: int) -> int:
    """vLLM has those at work in one place for each and all that are loaded in another."""
    layers = checkpoint_check.linear_layers(base.config, [place.entry for place in base.tensors])
    one_bytes = rank * sum(outputs + inputs for outputs, inputs in layers.values()) * _ELEMENT_BYTES
    return one_bytes * (AT_ONCE[rank] + kept(rank))
