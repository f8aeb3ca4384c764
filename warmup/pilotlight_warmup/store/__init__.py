"""Model store: from a URI to verified files on this node's disk, and on to its memory.

Pure policy: `names`, `addresses`, `plan`, `bandwidth`, `retry`, `eviction`. Adapters: `http_ranges` and `http_source`,
`hub` and `xet_ranges`, `object_store`, `local_files`, `disk`, `locks`, `page_cache`, `checkpoint`, `verification`.
`transfer` moves bytes, `shelf` knows what is there, `model_store` puts them together.
"""

from pilotlight_warmup.store.model_store import Progress, Store, StoreSettings
from pilotlight_warmup.store.shelf import Lease, Model, Tier
from pilotlight_warmup.store.sources import SourceSettings
from pilotlight_warmup.store.transfer import TransferSettings

__all__ = ["Lease", "Model", "Progress", "SourceSettings", "Store", "StoreSettings", "Tier", "TransferSettings"]
