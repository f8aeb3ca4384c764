"""What coordinator and agents call slots, models and engines: which engine is wanted where, and for whom.

Only what they say to each other (`agent_port`); what the coordinator makes of it is `policy`'s.
"""

from __future__ import annotations

import msgspec

from pilotlight_pool.policy.placement.prediction import Tier
from pilotlight_protocol.leases import Isolation, Priority
from pilotlight_protocol.swap_proofs import Combination


class SlotFacts(msgspec.Struct, frozen=True):
    """A device share. `device`: `cpu`, `cuda:0`, a MIG UUID. `memory_bytes` is for the engine that is awake. `cpus`:
    threads it may use, 0 on a GPU. `sleepers` engines may sleep beside it, with `sleep_bytes` of weights in host
    memory; 0 where none can."""

    slot_id: str
    device: str
    memory_bytes: int
    cpus: int
    sleepers: int = 0
    sleep_bytes: int = 0


class ModelOrder(msgspec.Struct, frozen=True):
    """A model as a holder asks for it. `loras`: (name, directory), of the engine. `adapter`: the URI of the one that
    the lease brings to its engine, "" without."""

    uri: str
    engine_args: dict[str, str] = {}
    quantization: str = "auto"
    loras: tuple[tuple[str, str], ...] = ()
    adapter: str = ""

    @property
    def uris(self) -> tuple[str, ...]:
        """What has to be on the node."""
        return (self.uri, self.adapter) if self.adapter else (self.uri,)


class ModelFacts(msgspec.Struct, frozen=True):
    """What the agent found out about a model. `key` names the bytes that an engine would serve (files and its own
    adapters); `combination`: what a proof of its swaps is for, None where it is never swapped; `swappable`: that is
    proven; `memory_bytes`: what an engine for it needs of a slot. `adapter_key` names the bytes of the adapter that the
    lease brings, `adapter_rank` its rank class, for which the engine is booted; "" and 0 without one."""

    key: str
    fingerprint: str
    quantization: str
    weights_bytes: int
    memory_bytes: int
    tier: Tier
    swappable: bool
    adapter_key: str = ""
    adapter_rank: int = 0
    combination: Combination | None = None

    @property
    def kind(self) -> tuple[str, str]:
        """Engines of one kind answer alike: the same bytes, booted with the same arguments."""
        return self.key, self.fingerprint

    @property
    def kinds(self) -> tuple[tuple[str, str], ...]:
        """The engine's, and its adapter's on such engines."""
        return (self.kind, (self.adapter_key, self.fingerprint)) if self.adapter_key else (self.kind,)

    def is_of(self, other: ModelFacts) -> bool:
        """The same bytes."""
        return (self.key, self.adapter_key) == (other.key, other.adapter_key)


class EngineOrder(msgspec.Struct, frozen=True):
    """Which engine a slot is to run: the model's facts, what they were read from, and the name it is served under."""

    model: ModelOrder
    facts: ModelFacts
    model_name: str


class GrantedAdapter(msgspec.Struct, frozen=True):
    """As a model's `uri` and `adapter_key`."""

    uri: str
    key: str


class Grant(msgspec.Struct, frozen=True):
    """One lease on one engine, alone or `beside` those that are there. The agent keeps it, so that a new coordinator
    can learn of it. `held_s`: since when, as an age, because the clocks of two machines differ."""

    lease_id: str
    secret_sha256: str
    tenant: str
    model_name: str
    priority: Priority
    isolation: Isolation
    held_s: float = 0.0
    beside: bool = False
    adapter: GrantedAdapter | None = None


class EngineReady(msgspec.Struct, frozen=True):
    """A boot or swap is done. `incarnation` numbers the slot's processes; `weights_s` is what moving weights took,
    `zygote_s` what was waited for the zygote's imports, `phases_s` everything by name, in order; `swap_path` as in
    EngineInfo."""

    incarnation: int
    weights_s: float
    zygote_s: float
    phases_s: dict[str, float]
    swap_path: str = ""
