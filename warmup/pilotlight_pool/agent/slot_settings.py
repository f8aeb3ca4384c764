"""What `--slot cpu:0=4GiB` means: a share of a device with a memory budget. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pilotlight_pool.engine_orders import SlotFacts
from pilotlight_protocol.byte_sizes import parse_size
from pilotlight_protocol.errors import InvalidInput

_FORM = re.compile(r"(?P<device>(?:cpu|cuda):[A-Za-z0-9_./-]+)=(?P<size>\d+(?:\.\d+)?[MGT]i?B?)")

# What a sleeping vLLM engine keeps of the device: its context and its captured graphs.
ASLEEP_DEVICE_BYTES = 2 * 2**30


def parse_slots(
    texts: Sequence[str], cpus: int, sleepers: int = 0, sleep_memory: str = "", agent: str = ""
) -> tuple[SlotFacts, ...]:
    """One `SlotFacts` per text; `cpus` are divided among the CPU slots. Raises InvalidInput with a valid example.

    `sleepers` engines may sleep in each slot, with `sleep_memory` ("64GiB") of host memory for their weights. What
    they keep of the device is taken off what the engine that is awake may use. `agent`: before the slots' names, where
    there are several agents.
    """
    shares: list[tuple[str, int]] = []
    for text in texts:
        form = _FORM.fullmatch(text.strip())
        device, size = form.group("device", "size") if form is not None else ("", "")
        try:
            shares.append((device, parse_size(size)))
        except ValueError:
            problem = f"--slot {text!r} is not understood; write for example cpu:0=4GiB or cuda:0=70GiB"
            raise InvalidInput(problem) from None
    names = [name for name, _ in shares]
    if not shares or len(set(names)) != len(names):
        raise InvalidInput(f"every slot has a name of its own, and there is at least one; given were {names}")
    if len({name.partition(":")[0] for name in names}) != 1:
        raise InvalidInput(f"the slots of one agent are all on CPUs or all on GPUs; given were {names}")
    per_slot = max(1, cpus // len(shares)) if names[0].startswith("cpu") else 0
    sleep_bytes = _sleep_bytes(sleepers, sleep_memory, shares) if sleepers else 0
    kept_bytes = sleepers * ASLEEP_DEVICE_BYTES
    prefix = f"{agent}/" if agent else ""
    return tuple(
        SlotFacts(prefix + name, name, memory_bytes - kept_bytes, per_slot, sleepers, sleep_bytes)
        for name, memory_bytes in shares
    )


def _sleep_bytes(sleepers: int, sleep_memory: str, shares: Sequence[tuple[str, int]]) -> int:
    name, least_bytes = min(shares, key=lambda share: share[1])
    if name.startswith("cpu"):
        raise InvalidInput("--sleepers needs a GPU: vLLM's sleep mode moves weights from the device to host memory")
    if sleepers < 0 or sleepers * ASLEEP_DEVICE_BYTES >= least_bytes:
        raise InvalidInput(
            f"--sleepers {sleepers} leaves {name} nothing: each keeps {ASLEEP_DEVICE_BYTES / 2**30:g} GiB of its "
            f"{least_bytes / 2**30:.1f} GiB"
        )
    try:
        return parse_size(sleep_memory)
    except ValueError:
        raise InvalidInput(f"--sleep_memory {sleep_memory!r} is not understood; write for example 64GiB") from None
