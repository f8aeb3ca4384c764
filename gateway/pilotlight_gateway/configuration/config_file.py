"""From the configuration file's bytes to a `GatewayConfig`, or to what is wrong with them and in which line.

Must not: know any section.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from pilotlight_gateway.configuration.gateway_config import GatewayConfig
from pilotlight_protocol.errors import InvalidInput

MAX_FILE_BYTES = 64 << 20
_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLACE = re.compile(r"^(.*) - at `\$\.?(.*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(\w+)`")
_STEPS = re.compile(r"\[(\d+|\.\.\.)\]|([^.\[\]]+)")


class BrokenConfig(InvalidInput):
    """The message is `FILE:LINE: what is wrong`."""


def read_config(path: Path) -> GatewayConfig:
    """Blocking. Raises BrokenConfig."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BrokenConfig(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise BrokenConfig(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB")
    return parse_config(content, str(path))


def parse_config(content: bytes, file_name: str) -> GatewayConfig:
    """Pure. A file called `*.json` is read as JSON, which is the faster of the two for very long ones."""
    if file_name.endswith(".json"):
        return _of_json(content, file_name)
    try:
        node, data = _of_yaml(content)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f":{mark.line + 1}"
        raise BrokenConfig(f"{file_name}{line}: no YAML: {getattr(error, 'problem', None) or error}") from error
    except (ValueError, RecursionError) as error:
        raise BrokenConfig(f"{file_name}: no YAML: {error}") from error
    try:
        return msgspec.convert(data, GatewayConfig)
    except (msgspec.ValidationError, RecursionError) as error:
        message, place = _told(error)
        line = "" if node is None else f":{_line_of(node, place, message)}"
        raise BrokenConfig(f"{file_name}{line}: {message}{f' (in {place})' if place else ''}") from error


def _of_json(content: bytes, file_name: str) -> GatewayConfig:
    try:
        return msgspec.json.decode(content, type=GatewayConfig)
    except msgspec.MsgspecError as error:
        message, place = _told(error)
        raise BrokenConfig(f"{file_name}: {message}{f' (in {place})' if place else ''}") from error


def _of_yaml(content: bytes) -> tuple[yaml.Node | None, Any]:
    """One document, {} where there is none. A key that stands twice is refused: YAML would drop the first of them."""
    loader = _LOADER(content)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        _refuse_twice(node)
        data = loader.construct_document(node)
        return node, {} if data is None else data
    finally:
        loader.dispose()


def _refuse_twice(root: yaml.Node) -> None:
    below, seen = [root], set[int]()
    while below:
        node = below.pop()
        if id(node) in seen:  # an alias, maybe of itself
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            below.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            keys = set[str]()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    raise yaml.MarkedYAMLError(problem=f"'{key.value}' stands here twice", problem_mark=key.start_mark)
                keys.add(str(key.value))
                below.append(value)


def _told(error: Exception) -> tuple[str, str]:
    """The message and the place of an error of msgspec."""
    found = _PLACE.match(str(error))
    return (found[1], found[2]) if found is not None else (str(error), "")


def _line_of(root: yaml.Node, place: str, message: str) -> int:
    """The line of the deepest node on the way to `place`, or to the field that nobody knows there, that is found."""
    unknown = _UNKNOWN.search(message)
    if unknown is not None:
        place = f"{place}.{unknown[1]}"
    node, line = root, root.start_mark.line
    for step in _STEPS.finditer(place):
        index, name = step[1], step[2]
        if isinstance(node, yaml.SequenceNode) and index is not None and index.isdigit():
            node = node.value[int(index)]
            line = node.start_mark.line
        elif isinstance(node, yaml.MappingNode) and name is not None:
            found = [(key, value) for key, value in node.value if key.value == name]
            if not found:
                break
            key, node = found[-1]
            line = key.start_mark.line
        else:
            break
    return line + 1
