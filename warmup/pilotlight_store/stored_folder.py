"""The store as a component sees it: from a reference to a folder of verified files that nobody evicts meanwhile.

The environment is an argument: `PILOTLIGHT_STORE`, `HF_ENDPOINT`, `HF_TOKEN`; object stores read their own variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.model_reference import STORE_VARIABLE, ModelReference
from pilotlight_store.model_store import Store, StoreSettings
from pilotlight_store.published.catalog import Hold
from pilotlight_store.sources.sources import HUB_ENDPOINT, SourceSettings
from pilotlight_store.transfer.names import Part

DEFAULT_STORE = "~/.cache/pilotlight/store"


def settings_from(environment: Mapping[str, str], folder: Path | None = None) -> StoreSettings:
    """`folder` None: the environment's, else the default. Raises InvalidInput for a user without a home."""
    sources = SourceSettings(
        hub_endpoint=environment.get("HF_ENDPOINT") or HUB_ENDPOINT, hub_token=environment.get("HF_TOKEN") or None
    )
    folder = folder or Path(environment.get(STORE_VARIABLE) or DEFAULT_STORE)
    try:
        return StoreSettings(folder.expanduser(), sources=sources)
    except RuntimeError as error:
        raise InvalidInput(f"this user has no home directory for a model store; set {STORE_VARIABLE}") from error


def stored_folder(reference: ModelReference, environment: Mapping[str, str], part: Part = "all") -> Hold:
    """The model in the store, fetched where it is not there. Its `path` stays until the hold is released, or until
    this process ends. Blocks. Raises what `Store.acquire` does."""
    settings = settings_from(environment)
    try:
        with Store(settings) as store:
            hold, _ = store.acquire(reference.uri, part=part)
    except OSError as error:
        raise InvalidInput(
            f"the model store {settings.folder} cannot be used ({error.strerror}); set {STORE_VARIABLE} to a folder "
            "that this user can write"
        ) from error
    return hold
