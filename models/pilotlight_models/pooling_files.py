"""What sentence-transformers keeps beside a model: which modules make a vector of it, and how long a text may be.

Untrusted like every file of a model. A module's folder lies in the model's own: vLLM opens what modules.json names.
Blocking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotlight_models.folder_files import FileRefused, opened, read_list, read_object
from pilotlight_protocol.manifest import unsafe_name

MODULES_NAME = "modules.json"
MAX_MODULES = 16
SENTENCE_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


@dataclass(frozen=True)
class PoolingFiles:
    """`settings`: everything they say, as plain values: models that differ in it make other vectors of the same
    weights. `files`: what was read. `has_modules`: there is a modules.json. `max_seq_length` in tokens."""

    settings: Mapping[str, Any]
    files: tuple[Path, ...] = ()
    has_modules: bool = False
    max_seq_length: int | None = None
    lower_case: bool = False


def read_pooling_files(directory: Path) -> PoolingFiles | None:
    """None where there are none. Raises FileRefused."""
    modules = read_list(directory / MODULES_NAME)
    sentence, found = _sentence_config(directory)
    if modules is None and sentence is None:
        return None
    files = [] if found is None else [found]
    described = []
    if modules is not None:
        files.append(directory / MODULES_NAME)
        if len(modules) > MAX_MODULES:
            raise FileRefused(f"{MODULES_NAME} has {len(modules)} modules; at most {MAX_MODULES} are read")
        for module in modules:
            kind, path = _module(module)
            config = None
            if path:
                config = read_object(directory / path / "config.json")
                files += _files_of(directory / path)
            described.append([kind, path, config])
    length = (sentence or {}).get("max_seq_length")
    return PoolingFiles(
        {"modules": described, "sentence": dict(sentence or {})},
        tuple(files),
        modules is not None,
        length if type(length) is int and length > 0 else None,
        bool((sentence or {}).get("do_lower_case")),
    )


def _module(module: Any) -> tuple[str, str]:
    kind, path = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(path, str):
        raise FileRefused(f"{MODULES_NAME}: a module has a type and a path")
    if path and (reason := unsafe_name(path)):
        raise FileRefused(f"{MODULES_NAME} names the folder {path[:200]!r}: {reason}")
    return kind, path


def _files_of(folder: Path) -> list[Path]:
    """Raises FileRefused for what a reader would never come back from."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in files:
        if path.is_dir():
            raise FileRefused(f"{folder.name}/{path.name} is a folder; a module's folder holds files")
        with opened(path):
            pass
    return files


def _sentence_config(directory: Path) -> tuple[dict[str, Any] | None, Path | None]:
    for name in SENTENCE_CONFIGS:
        config = read_object(directory / name)
        if config:
            return config, directory / name
    return None, None
