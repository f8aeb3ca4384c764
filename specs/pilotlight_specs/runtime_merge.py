"""Merges a runtime's container with the model's, and fills its placeholders, as KServe 0.20 does. Pure, on raw YAML."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping

from pilotlight_specs.desired import CONTAINER_NAME
from pilotlight_specs.findings import Report

_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_FIELD = re.compile(r"\s*\.(Name|Namespace)\s*")
_MAP_FIELD = re.compile(r"\s*\.(Labels|Annotations)\.([A-Za-z0-9_]+)\s*")
_MAP_INDEX = re.compile(r"\s*index\s+\.(Labels|Annotations)\s+\\?\"([^\"\\]+)\\?\"\s*")
_MERGE_KEYS = {"env": "name", "ports": "containerPort", "volumeMounts": "mountPath"}


def merge_containers(runtime: Mapping[str, object], isvc: Mapping[str, object]) -> dict[str, object]:
    """The runtime's container patched with the InferenceService's: args concatenated, lists with a key merged by it."""
    merged = _merge(runtime, isvc)
    args = [*_list(runtime.get("args")), *_list(isvc.get("args"))]
    if args:
        merged["args"] = args
    merged["name"] = CONTAINER_NAME
    return merged


def _merge(base: Mapping[str, object], patch: Mapping[str, object]) -> dict[str, object]:
    merged = copy.deepcopy(dict(base))
    for key, value in patch.items():
        old = merged.get(key)
        if value is None:
            continue
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        elif key in _MERGE_KEYS and isinstance(old, list) and isinstance(value, list):
            merged[key] = _merge_keyed(old, value, _MERGE_KEYS[key])
        else:
            merged[key] = copy.deepcopy(value)
    # A probe has one handler: a patched one replaces the other kind.
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        handlers = {"httpGet", "tcpSocket", "exec", "grpc"}
        new, result = patch.get(probe), merged.get(probe)
        if isinstance(new, dict) and isinstance(result, dict) and handlers & new.keys():
            merged[probe] = {key: item for key, item in result.items() if key not in handlers or key in new}
    return merged


def _merge_keyed(base: list[object], patch: list[object], key: str) -> list[object]:
    result = copy.deepcopy(base)
    for item in patch:
        place = next(
            (
                index
                for index, old in enumerate(result)
                if isinstance(old, dict) and isinstance(item, dict) and old.get(key) == item.get(key)
            ),
            None,
        )
        if place is None:
            result.append(copy.deepcopy(item))
            continue
        old = result[place]
        if isinstance(old, dict) and isinstance(item, dict):
            # value and valueFrom exclude each other.
            dropped = {"value", "valueFrom"} - item.keys() if {"value", "valueFrom"} & item.keys() else set()
            result[place] = {name: value for name, value in old.items() if name not in dropped} | copy.deepcopy(item)
    return result


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def fill_placeholders(container: object, metadata: Mapping[str, object], report: Report, path: str) -> object:
    """`{{.Name}}` and the other metadata of the InferenceService in every string of the runtime's container."""
    if isinstance(container, dict):
        return {key: fill_placeholders(value, metadata, report, path) for key, value in container.items()}
    if isinstance(container, list):
        return [fill_placeholders(value, metadata, report, path) for value in container]
    if not isinstance(container, str) or "{{" not in container:
        return container

    def fill(match: re.Match[str]) -> str:
        inner = match.group(1)
        if field := _FIELD.fullmatch(inner):
            return str(metadata[field.group(1).lower()])
        if lookup := _MAP_FIELD.fullmatch(inner) or _MAP_INDEX.fullmatch(inner):
            entries = metadata.get(lookup.group(1).lower())
            return str(entries.get(lookup.group(2), "")) if isinstance(entries, dict) else ""
        report.error(
            path,
            f"placeholder {match.group()} of the runtime is not known; use .Name, .Namespace, .Labels or .Annotations",
        )
        return match.group()

    return _PLACEHOLDER.sub(fill, container)
