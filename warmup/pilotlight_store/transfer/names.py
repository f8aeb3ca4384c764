"""Which of a source's files belong to a model: weights as safetensors, and the text files engines and tokenizers read.

Pure. A pickle can run code when it is loaded, so it is never stored, whatever it is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from pilotlight_models.pooling_files import MODULES_NAME, SENTENCE_CONFIGS
from pilotlight_protocol.manifest import MANIFEST_NAME, colliding_name, unsafe_name

# Formats that unpickle, or that hold code. `.bin` and `.pt` are PyTorch's, `.npz` and `.npy` may hold pickled objects.
CODE_SUFFIXES = frozenset({
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".mar", ".h5", ".keras",
    ".pb", ".msgpack", ".ot", ".nemo", ".torchscript", ".ptl", ".py", ".pyc", ".so", ".sh", ".exe", ".dll",
    ".zip", ".tar", ".gz", ".tgz", ".xz", ".zst", ".7z",
})  # fmt: skip
WANTED_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken", ".md"})
WANTED_NAMES = frozenset({"LICENSE", "LICENCE", "NOTICE", "USE_POLICY"})
# Other frameworks' copies of the same weights and training leftovers, by folder.
UNWANTED_FOLDERS = frozenset({"original", "onnx", "openvino", "coreml", "runs", ".git", ".cache"})
Part = Literal["all", "tokenizer"]
"""Of a model: all of it, or what a process needs that handles text only."""
_TOKENIZER_FILES = frozenset({
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "added_tokens.json", "adapter_config.json", MODULES_NAME, *SENTENCE_CONFIGS,
})  # fmt: skip
_TEMPLATE_FOLDER = "additional_chat_templates"


@dataclass(frozen=True)
class Selection:
    """`wanted` are downloaded, `code` would have run code and stay behind."""

    wanted: tuple[str, ...]
    code: tuple[str, ...]


class NameRefused(ValueError):
    """A file that must not come into the store; the message names it."""


def check_name(name: str) -> None:
    """Raises NameRefused for a name that could leave the model's directory or a file that could run code."""
    if reason := unsafe_name(name):
        raise NameRefused(f"file {name!r} is refused: {reason}")
    if holds_code(name):
        raise NameRefused(f"file {name!r} is refused: loading it can run code; convert the weights to safetensors")


def holds_code(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in CODE_SUFFIXES


def in_part(name: str, part: Part) -> bool:
    folder, _, template = name.rpartition("/")
    # adapter_config.json is for an adapter without a template, of which nothing else would be fetched.
    # Which modules there are is known when modules.json is here: each has one small file.
    of_module = template == "config.json" and "/" not in folder
    return (
        part == "all"
        or name in _TOKENIZER_FILES
        or of_module
        or (folder == _TEMPLATE_FOLDER and template.endswith(".jinja"))
    )


def select(names: Iterable[str], part: Part = "all") -> Selection:
    """What to take of a source that ships no manifest.

    Raises NameRefused for an unsafe name, for two names that one file system or another takes for the same (one file
    would overwrite the other), and, where weights are wanted, for a source whose only weights are pickles or that has
    none.
    """
    wanted: list[str] = []
    code: list[str] = []
    for name in names:
        if reason := unsafe_name(name):
            raise NameRefused(f"file {name!r} is refused: {reason}")
        path = PurePosixPath(name)
        if UNWANTED_FOLDERS & set(path.parts[:-1]) or name == MANIFEST_NAME or path.name.startswith("."):
            continue
        if holds_code(name):
            code.append(name)
        elif path.suffix.lower() in WANTED_SUFFIXES or path.name in WANTED_NAMES:
            wanted.append(name)
    if reason := colliding_name(wanted):
        raise NameRefused(f"refused: {reason}")
    if part == "all" and not any(name.endswith(".safetensors") for name in wanted):
        if code:
            raise NameRefused(
                f"refused: the weights are in {', '.join(sorted(code)[:3])}, and loading such files can run code; "
                "convert them to safetensors"
            )
        raise NameRefused("refused: no *.safetensors file is there; give the folder that holds the weights")
    return Selection(tuple(sorted(wanted)), tuple(sorted(code)))
