"""From a model's URI to a directory with safetensors weights. Adapter to the disk and the Hugging Face hub.

Blocking: call it before the event loop runs, or in a thread. Pickle weights are refused (they run code when loaded),
and code that a repository brings along is never run.
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pilotlight_protocol.errors import InvalidInput, ModelNotFound, NotSupported, Unavailable

ALLOWED_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.tiktoken", "merges.txt", "vocab.txt")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_REPOSITORY = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def resolve(uri: str) -> Path:
    """The directory of `bundled://name`, `file:///dir`, a plain directory or `hf://org/name[@revision]`.

    Raises ModelNotFound (no such model), InvalidInput (not a URI we know, or a directory that cannot be served),
    NotSupported (a scheme of another part of Pilotlight), Unavailable (the hub cannot be reached).
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return check_directory(Path(uri))
    match scheme:
        case "file":
            return check_directory(Path(unquote(urlsplit(uri).path)))
        case "bundled":
            return check_directory(_bundled(rest))
        case "hf":
            return check_directory(_download(rest))
    raise NotSupported(f"model URIs with '{scheme}://' are not served here; use hf://, file:// or a mounted directory")


def check_directory(directory: Path) -> Path:
    """The same directory if an engine can load it: a config.json and safetensors weights."""
    if not directory.is_dir():
        raise ModelNotFound(f"there is no model directory {directory}; check --model_dir or the mount")
    if not (directory / "config.json").is_file():
        raise InvalidInput(f"{directory} has no config.json, so it is not a Hugging Face checkpoint")
    if not any(directory.glob("*.safetensors")):
        if any(path.suffix in _PICKLES for path in directory.iterdir()):
            raise InvalidInput(
                f"{directory} holds pickle weights only, which run code when they are loaded; "
                "convert them to safetensors"
            )
        raise InvalidInput(f"{directory} holds no *.safetensors weights")
    return directory


def read_config(directory: Path) -> dict[str, object]:
    """The parsed config.json. Raises InvalidInput when it is broken."""
    try:
        content = json.loads((directory / "config.json").read_bytes())
    except ValueError as error:
        raise InvalidInput(f"{directory / 'config.json'} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{directory / 'config.json'} is not a JSON object")
    return content


def weights_bytes(directory: Path) -> int:
    """Size of the safetensors files, which is about what the loaded weights take."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _bundled(name: str) -> Path:
    try:
        # By name: the predictor does not depend on the models' package, an image may leave it out.
        models = importlib.import_module("pilotlight_models")
    except ImportError:
        raise ModelNotFound("no models are bundled with this installation; use hf:// or file://") from None
    try:
        return Path(models.bundled_model_path(name))
    except LookupError as error:
        raise ModelNotFound(str(error.args[0])) from None


def _download(reference: str) -> Path:
    match = _REPOSITORY.fullmatch(reference)
    if match is None:
        raise InvalidInput(
            f"'hf://{reference}' must look like hf://organisation/name or hf://organisation/name@revision"
        )
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    name, revision = match["name"], match["revision"]
    try:
        files = HfApi().list_repo_files(name, revision=revision)
        if not any(file.endswith(".safetensors") for file in files):
            raise InvalidInput(f"hf://{reference} has no safetensors weights; use a revision or repository that has")
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(ALLOWED_FILES)))
    except RepositoryNotFoundError:
        raise ModelNotFound(f"the hub has no model '{reference}', or it is private: set HF_TOKEN") from None
    except HfHubHTTPError as error:
        raise Unavailable(f"the hub refused hf://{reference}: {error}") from error
    except (OSError, LocalEntryNotFoundError) as error:
        return _from_cache(name, revision, reference, error)


def _from_cache(name: str, revision: str | None, reference: str, cause: Exception) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(ALLOWED_FILES), local_files_only=True)
        )
    except OSError:
        raise Unavailable(f"hf://{reference} is not in the cache and the hub cannot be reached: {cause}") from cause
