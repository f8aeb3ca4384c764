"""Where the models lie that are served where they are: folders of this machine and bundled models."""

from __future__ import annotations

from pathlib import Path

from pilotlight_models import bundled_model_path
from pilotlight_protocol.errors import ModelNotFound
from pilotlight_protocol.model_reference import ModelReference


def folder_in_place(reference: ModelReference) -> Path | None:
    """Not looked into yet; None for what the store has to fetch. Raises ModelNotFound for no bundled model."""
    match reference.scheme:
        case "file":
            return Path(reference.path)
        case "bundled":
            try:
                return bundled_model_path(reference.path)
            except LookupError as error:
                raise ModelNotFound(str(error.args[0])) from error
    return None
