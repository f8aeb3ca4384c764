"""What a platform tells the gateway of its endpoints, and how news of them are asked for. Pure.

The gateway asks `GET /endpoints?epoch=…&after=…&wait_s=…` and is answered at once when something has changed since,
else when the time is over. An answer whose epoch is another one, or that is `whole`, replaces all that was known.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pilotlight_protocol.leases import LeaseRequest

FRONT_ANNOTATION = "pilotlight.dev/front"
Front = Literal["auto", "shared", "pods"]
"""Which way requests go: `shared`: the gateway tokenizes and leases the engine itself, `pods`: through the endpoint's
own pods, `auto`: as the gateway decides for each request."""

CACHE_SALT_ANNOTATION = "pilotlight.dev/cache-salt"
CacheSalt = Literal["send", "none"]
"""Whether a container that is not ours is sent `cache_salt` with requests of tenants who share it; `none`: it refuses
fields that it does not know."""

LONGEST_WAIT_S = 30.0


class TextFiles(msgspec.Struct, frozen=True):
    """What `load_text` needs: as the endpoint's transformer was told."""

    model_uri: str
    adapter_uri: str = ""
    max_model_len: int | None = None
    tool_parser: str | None = None
    reasoning_parser: str | None = None


class RequestBounds(msgspec.Struct, frozen=True):
    """What the endpoint's predictor admits; its own defaults where the spec says nothing.

    `kv_watermark`: the share of the KV cache that may be promised. `lease_wait_s`: how long a request waits for a
    lease; `lease_idle_s`: how long one without work is kept.
    """

    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    max_batch: int = 64
    max_sequences: int = 256
    max_queue: int = 256
    kv_watermark: float = 0.9
    lease_wait_s: float = 120.0
    lease_idle_s: float = 5.0


class PredictorMeaning(msgspec.Struct, frozen=True):
    """What a predictor's arguments come to, paths as they are in its container."""

    lease: LeaseRequest
    bounds: RequestBounds


class TransformerMeaning(msgspec.Struct, frozen=True):
    """What a transformer's arguments come to, paths as they are in its container."""

    model_name: str
    lora_names: tuple[str, ...]
    text: TextFiles


class PodsAddress(msgspec.Struct, frozen=True):
    """Where pods are reached: the platform's ingress and the `Host` that names the endpoint there, or one pod."""

    url: str
    host: str


class EndpointEntry(msgspec.Struct, frozen=True):
    """One endpoint. Its namespace is its tenant's.

    `model_names`: what its components call the model, the first its own and then its adapters'. `lease`: what its
    predictor asks the warm pool for, None where it has an engine of its own or runs a foreign container. `text`: None
    where its transformer is not ours, or there is none. `spec_digest` changes with everything but `pods_ready`, the
    number of pods of the component that clients reach which take requests now. `replicas`: where each of them is
    reached, for a gateway that chooses among them; none: `pods` alone, behind which somebody else chooses.
    `is_split`: between revisions, which may be different models. `created_s`: when it was first there, and
    `names_since_s` when it first had each of its models' names, since the epoch; none: since it was there. Who has a
    name first keeps it (`endpoint_names`).
    """

    namespace: str
    name: str
    model_names: tuple[str, ...]
    spec_digest: str
    pods: PodsAddress
    pods_ready: int = 0
    timeout_s: float = 300.0
    front: Front = "auto"
    lease: LeaseRequest | None = None
    text: TextFiles | None = None
    bounds: RequestBounds = RequestBounds()
    replicas: tuple[PodsAddress, ...] = ()
    is_split: bool = False
    created_s: float = 0.0
    names_since_s: tuple[float, ...] = ()
    cache_salt: CacheSalt = "send"

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


class DirectoryAnswer(msgspec.Struct, frozen=True):
    """`version` is asked for next; `gone`: (namespace, name) of endpoints that are no more."""

    epoch: str
    version: int
    whole: bool
    changed: tuple[EndpointEntry, ...] = ()
    gone: tuple[tuple[str, str], ...] = ()
