"""The manifest of a model that lies in a folder, from what its own files say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pilotlight_models.checkpoint import read_checkpoint
from pilotlight_models.folder_files import FileRefused, read_beginning
from pilotlight_protocol.manifest import Manifest, ManifestFile
from pilotlight_protocol.model_config import context_length_of, dtype_of
from pilotlight_store.errors import VerificationFailed
from pilotlight_store.transfer.names import Part

_CARD_BYTES = 16_384
_LICENSE = re.compile(r"\A---\n(?:.*\n)*?license:\s*['\"]?([A-Za-z0-9.+ _-]{1,80})['\"]?\s*\n", re.MULTILINE)


def describe(
    folder: Path, files: Sequence[ManifestFile], source: str, revision: str, license_: str | None, part: Part = "all"
) -> Manifest:
    """The manifest of the model in `folder`; a part of one says nothing of an architecture.

    Raises VerificationFailed where its files contradict one another.
    """
    ordered = tuple(sorted(files, key=lambda file: file.name))
    if part != "all":
        return Manifest(files=ordered, license=license_, source=source, revision=revision)
    try:
        checkpoint = read_checkpoint(folder)
        return Manifest(
            files=ordered,
            architecture=checkpoint.architecture,
            quantization=checkpoint.quantization,
            dtype=dtype_of(checkpoint.config, checkpoint.inventory),
            context_length=context_length_of(checkpoint.config),
            license=license_ or _card_license(folder / "README.md"),
            source=source,
            revision=revision,
        )
    except FileRefused as error:
        raise VerificationFailed(f"{source}: {error.message}; give the model's own folder") from error


def _card_license(path: Path) -> str | None:
    match = _LICENSE.match(read_beginning(path, _CARD_BYTES).decode(errors="replace"))
    return match[1].strip() if match else None
