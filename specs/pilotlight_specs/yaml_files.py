"""Reads the YAML files that were named on the command line into documents. The only I/O of this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pilotlight_specs.fields import describe
from pilotlight_specs.findings import Finding

_SUFFIXES = {".yaml", ".yml", ".json"}
MAX_FILE_BYTES = 16 << 20
_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a file. `source` is the file's name and the document's index in it."""

    source: str
    data: dict[str, object]


def read_documents(paths: Sequence[Path]) -> tuple[tuple[Document, ...], tuple[Finding, ...]]:
    """All objects of the given files and directories (`*.yaml|yml|json`, sorted, not recursive: as kubectl -f)."""
    documents: list[Document] = []
    findings: list[Finding] = []
    for path in paths:
        try:
            files = sorted(entry for entry in path.iterdir() if entry.suffix in _SUFFIXES) if path.is_dir() else [path]
        except OSError as error:
            findings.append(_unreadable(path, error))
            continue
        if not files:
            findings.append(Finding("error", str(path), "", "", "no *.yaml, *.yml or *.json file in this directory"))
        for file in files:
            try:
                with file.open("rb") as stream:
                    content = stream.read(MAX_FILE_BYTES + 1)
            except OSError as error:
                findings.append(_unreadable(file, error))
                continue
            if len(content) > MAX_FILE_BYTES:
                findings.append(
                    Finding("error", str(file), "", "", f"larger than {MAX_FILE_BYTES >> 20} MiB; split it")
                )
                continue
            found, faults = parse_documents(content, file.name)
            if not found and not faults:
                findings.append(Finding("error", file.name, "", "", "holds no object; is it the right file?"))
            documents.extend(found)
            findings.extend(faults)
    return tuple(documents), tuple(findings)


def parse_documents(content: bytes | str, file_name: str) -> tuple[tuple[Document, ...], tuple[Finding, ...]]:
    """The objects in one file's content. A `List` object is replaced by its items. Pure."""
    documents: list[Document] = []
    findings: list[Finding] = []
    try:
        loaded = list(yaml.load_all(content, Loader=_LOADER))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        return (), (Finding("error", file_name, "", "", f"not valid YAML{where}: {problem}"),)
    for index, data in enumerate(loaded):
        source = f"{file_name}[{index}]"
        if data is None:
            continue
        items = [data]
        if isinstance(data, dict) and data.get("kind") == "List" and isinstance(data.get("items"), list):
            items = data["items"]
        for item in items:
            if isinstance(item, dict):
                documents.append(Document(source, item))
            else:
                findings.append(Finding("error", source, "", "", f"must be a Kubernetes object, was {describe(item)}"))
    return tuple(documents), tuple(findings)


def _unreadable(path: Path, error: OSError) -> Finding:
    return Finding("error", str(path), "", "", f"cannot be read: {error.strerror or error}")
