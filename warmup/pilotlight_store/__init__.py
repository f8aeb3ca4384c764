"""Model store: from a URI to verified files on this node's disk, and on to its memory.

Pure policy: `names`, `addresses`, `plan`, `bandwidth`, `retry`, `eviction`.
Sources: `http_source` and `http_ranges` (with `checked_connection`, `http_answers`), `hub` and `xet_ranges`,
`object_store`, `local_files`; `listing` asks them, `wanted` chooses their files, `transfer` moves the bytes (with
`file_hash`, `bandwidth_gate`, `disk`).
The node: `catalog` knows what is there, `room` who makes room, `published_models` does what is done with a model (with
`locks`, `page_cache`, `checkpoint`, `verification`); `model_store` puts all of it together.
"""

from pilotlight_store.model_store import Progress, Store, StoreSettings
from pilotlight_store.published.catalog import Hold
from pilotlight_store.published.published_models import Model, Tier
from pilotlight_store.sources.sources import SourceSettings
from pilotlight_store.transfer.transfer import TransferSettings

__all__ = ["Hold", "Model", "Progress", "SourceSettings", "Store", "StoreSettings", "Tier", "TransferSettings"]
