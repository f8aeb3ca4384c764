"""KServe's and Knative's resource definitions, as `tests/cluster/crds` keeps them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "cluster" / "crds"


def definitions() -> dict[str, dict[str, Any]]:
    """By name, as `inferenceservices.serving.kserve.io`."""
    found = (json.loads(gzip.decompress(path.read_bytes())) for path in sorted(FOLDER.glob("*.json.gz")))
    return {definition["metadata"]["name"]: definition for definition in found}
