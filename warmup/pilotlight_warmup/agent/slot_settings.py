"""What `--slot cpu:0=4GiB` means: a share of a device with a memory budget. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pilotlight_protocol.errors import InvalidInput

from pilotlight_warmup.agent_port import SlotFacts

_FORM = re.compile(r"(?P<device>(?:cpu|cuda):[A-Za-z0-9_./-]+)=(?P<amount>\d+(?:\.\d+)?)(?P<unit>[MGT]i?B?)")
_UNITS = {"M": 10**6, "G": 10**9, "T": 10**12, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def parse_slots(texts: Sequence[str], cpus: int) -> tuple[SlotFacts, ...]:
    """One `SlotFacts` per text; `cpus` are divided among the CPU slots. Raises InvalidInput with a valid example."""
    shares: list[tuple[str, int]] = []
    for text in texts:
        form = _FORM.fullmatch(text.strip())
        if form is None:
            raise InvalidInput(f"--slot {text!r} is not understood; write for example cpu:0=4GiB or cuda:0=70GiB")
        amount_bytes = int(float(form["amount"]) * _UNITS[form["unit"].removesuffix("B")])
        shares.append((form["device"], amount_bytes))
    names = [name for name, _ in shares]
    if not shares or len(set(names)) != len(names):
        raise InvalidInput(f"every slot has a name of its own, and there is at least one; given were {names}")
    if len({name.partition(":")[0] for name in names}) != 1:
        raise InvalidInput(f"the slots of one agent are all on CPUs or all on GPUs; given were {names}")
    per_slot = max(1, cpus // len(shares)) if names[0].startswith("cpu") else 0
    return tuple(SlotFacts(name, name, memory_bytes, per_slot) for name, memory_bytes in shares)
