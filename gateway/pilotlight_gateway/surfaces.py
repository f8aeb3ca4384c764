"""Which model a path asks for, and what its components call the path. Pure.

Paths over a body's `model` are the text API's own routes; those of V2 have the model between `/v2/models/` and a verb,
with its slashes plain or written as `%2F`.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

_V2_MODELS = "/v2/models/"
_VERBS = frozenset({"infer", "generate", "generate_stream", "ready"})
_ERROR = b'"error"'
_LAST_EVENTS = {
    "/completions": (b"data: [DONE]", b"data:[DONE]", _ERROR),
    "/messages": (b'"message_stop"', _ERROR),
    "/responses": (b'"response.completed"', b'"response.incomplete"', b'"response.failed"', _ERROR),
}
"""Not of V2's streams: foreign servers end theirs with no sign that all of them have."""
_NO_ENGINE = ("/tokenize", "/detokenize", "/render", "/derender", "/count_tokens", "/input_tokens")

PLACEHOLDER = "m"
"""Stands for the model in a component's path: one segment, whatever the model is called."""


@dataclass(frozen=True, slots=True)
class ModelPath:
    """A path of V2: the `model` in it, its `version` or "", and `tail`: all that stands behind the model."""

    model: str
    version: str
    tail: str

    @property
    def of_placeholder(self) -> str:
        return f"{_V2_MODELS}{PLACEHOLDER}{self.tail}"


def model_path(raw_path: str) -> ModelPath | None:
    """None for a path that names no model."""
    if not raw_path.startswith(_V2_MODELS):
        return None
    segments = raw_path[len(_V2_MODELS) :].rstrip("/").split("/")
    end = len(segments)
    if end > 1 and segments[-1] in _VERBS:
        end -= 1
    version = ""
    if end > 2 and segments[end - 2] == "versions":
        version, end = unquote(segments[end - 1]), end - 2
    model = unquote("/".join(segments[:end]))
    tail = "".join(f"/{segment}" for segment in segments[end:])
    return ModelPath(model, version, tail) if model else None


def without_version(raw_path: str) -> str:
    """The path of V2 with no version in it; any other as it is."""
    named = model_path(raw_path)
    if named is None or not named.version:
        return raw_path
    segments = named.tail.split("/")
    return f"{_V2_MODELS}{quote(named.model, safe='')}{'/'.join(['', *segments[3:]])}"


def last_events(path: str) -> tuple[bytes, ...]:
    """What the last event of a stream at this path holds, one of them; none where nobody knows."""
    last = path.rstrip("/").rpartition("/")[2]
    return _LAST_EVENTS.get(f"/{last}", ())


def component_path(raw_path: str) -> str:
    """The path as a component has it that serves one model."""
    named = model_path(raw_path)
    return raw_path if named is None else named.of_placeholder


def makes_tokens(method: str, path: str) -> bool:
    """Whether an engine answers it, and not the model's files alone. `path`: the component's."""
    if method != "POST":
        return False
    return not path.rstrip("/").endswith(_NO_ENGINE)
