"""From a URI to the adapter that serves it; the only place that knows them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pilotlight_models.in_place import folder_in_place
from pilotlight_protocol.model_reference import ModelReference, parse_model_reference
from pilotlight_store.errors import SourceInvalid
from pilotlight_store.sources.addresses import AddressRules
from pilotlight_store.sources.http_ranges import HttpRanges
from pilotlight_store.sources.http_source import HttpSource
from pilotlight_store.sources.local_files import LocalFiles
from pilotlight_store.sources.source import Source

HUB_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True)
class SourceSettings:
    """Where and as whom models are fetched. `hub_token` goes to `hub_endpoint` only, and is in no repr.

    `claims_folder`: where persistent volume claims are mounted, one folder each. `object_store_options`: obstore's
    configuration keys (`endpoint`, `region`, …) beside its environment variables. `timeout_s`: for a connection, and
    for a read that brings nothing.
    """

    addresses: AddressRules = field(default_factory=AddressRules)
    hub_endpoint: str = HUB_ENDPOINT
    hub_token: str | None = field(default=None, repr=False)
    claims_folder: Path = Path("/mnt/pvc")
    object_store_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 30.0


def open_source(uri: str, settings: SourceSettings) -> Source:
    """Raises InvalidInput for a URI that means nothing, ModelNotFound for no bundled model. Talks to nobody yet."""
    reference = parse_model_reference(uri)
    match reference.scheme:
        case "http" | "https":
            return HttpSource(reference.uri, HttpRanges(settings.addresses, timeout_s=settings.timeout_s))
        case "file" | "bundled":
            folder = folder_in_place(reference)
            assert folder is not None  # of these two schemes every one is a folder
            if not folder.is_absolute():
                raise SourceInvalid(f"{uri!r} is neither a URI nor an absolute path")
            return LocalFiles(reference.uri, folder)
        case "pvc":
            return LocalFiles.of_claim(reference, settings.claims_folder)
        case "hf":
            return _hub(reference, settings)
        case "s3" | "gs" | "az":
            # Imported here: each costs a tenth of a second or more, and a process mostly needs one of them or none.
            from pilotlight_store.sources.object_store import ObjectStoreSource

            return ObjectStoreSource(reference.uri, settings.object_store_options, timeout_s=settings.timeout_s)


def _hub(reference: ModelReference, settings: SourceSettings) -> Source:
    from pilotlight_store.sources.hub import HubSource

    endpoint = urlsplit(settings.hub_endpoint)
    if endpoint.scheme not in {"http", "https"} or not endpoint.hostname:
        raise SourceInvalid("the hub's endpoint is no http(s) URL; set HF_ENDPOINT")
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    origin = f"{endpoint.scheme}://{endpoint.hostname}:{port}"
    # The operator chose the endpoint, so its own address may be private; where it redirects to is checked as ever.
    rules = AddressRules(
        settings.addresses.allow_private, settings.addresses.allowed_hosts | {f"{endpoint.hostname}:{port}"}
    )
    token = settings.hub_token

    def headers(asked_origin: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {token}"} if token and asked_origin == origin else {}

    ranges = HttpRanges(rules, timeout_s=settings.timeout_s, headers=headers)
    return HubSource(reference, settings.hub_endpoint, token, ranges)
