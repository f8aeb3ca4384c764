"""Reads the YAML files that were named on the command line into documents. The only I/O of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pilotlight_specs.fields import describe, join_path
from pilotlight_specs.findings import Finding

_SUFFIXES = {".yaml", ".yml", ".json"}
MAX_FILE_BYTES = 16 << 20
_MOST_LINES = 100_000
_LONGEST_PATH = 500
_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a file. `source` is the file's name, `lines` says where in it each path of `data` stands."""

    source: str
    data: dict[str, object]
    lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.source}:{self.lines.get('', 0)}"


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
        loader = _LOADER(content)
        try:
            while loader.check_node():
                node = loader.get_node()
                assert node is not None
                for item, lines in _objects(loader.construct_document(node), node):
                    if isinstance(item, dict):
                        documents.append(Document(file_name, item, lines))
                    else:
                        reason = f"must be a Kubernetes object, was {describe(item)}"
                        findings.append(Finding("error", file_name, "", "", reason, lines[""]))
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        return (), (Finding("error", file_name, "", "", f"not valid YAML{where}: {problem}"),)
    return tuple(documents), tuple(findings)


def _objects(data: object, node: yaml.Node) -> list[tuple[object, dict[str, int]]]:
    """The objects of one document, each with its lines."""
    if data is None:
        return []
    if isinstance(data, dict) and data.get("kind") == "List" and isinstance(data.get("items"), list):
        items = [value.value for key, value in node.value if key.value == "items"]
        # Written by a merge key it stands elsewhere: then the list's own lines have to do.
        nodes = items[-1] if items and len(items[-1]) == len(data["items"]) else [node] * len(data["items"])
        return [(item, _lines(found)) for item, found in zip(data["items"], nodes, strict=True)]
    return [(data, _lines(node))]


def _lines(node: yaml.Node) -> dict[str, int]:
    """The line of every path below `node`: of a mapping's key, of a list's item."""
    lines = {"": node.start_mark.line + 1}
    # An alias counts at each place that names it, and one may name itself: hence the bounds.
    below = [("", node)]
    while below and len(lines) < _MOST_LINES:
        path, at = below.pop()
        if len(path) > _LONGEST_PATH:
            continue
        if isinstance(at, yaml.MappingNode):
            for key, value in at.value:
                inner = join_path(path, str(key.value))
                lines[inner] = key.start_mark.line + 1
                below.append((inner, value))
        elif isinstance(at, yaml.SequenceNode):
            for index, value in enumerate(at.value):
                lines[f"{path}[{index}]"] = value.start_mark.line + 1
                below.append((f"{path}[{index}]", value))
    return lines


def _unreadable(path: Path, error: OSError) -> Finding:
    return Finding("error", str(path), "", "", f"cannot be read: {error.strerror or error}")
