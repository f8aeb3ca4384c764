"""From a model's URI to a directory with safetensors weights. Adapter to the disk and the Hugging Face hub.

Blocking: call it before the event loop runs, or in a thread. Pickle weights are refused (they run code when loaded),
and code that a repository brings along is never run.
"""

from __future__ import annotations

import json
from pathlib import Path

from pilotlight_models import bundled_model_path
from pilotlight_protocol.errors import InvalidInput, ModelNotFound, NotSupported, Unavailable
from pilotlight_protocol.model_uri import BundledModel, Folder, HubModel, RemoteModel, parse_model_uri

ALLOWED_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.tiktoken", "merges.txt", "vocab.txt")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def resolve(uri: str) -> Path:
    """The directory of a model's URI (`pilotlight_protocol.model_uri`), fetched from the hub if that is where it is.

    Raises ModelNotFound (no such model), InvalidInput (not a URI we know, or a directory that cannot be served),
    NotSupported (a scheme of another part of Pilotlight), Unavailable (the hub cannot be reached).
    """
    match parse_model_uri(uri):
        case Folder(path):
            return check_directory(Path(path))
        case BundledModel(name):
            return check_directory(_bundled(name))
        case HubModel(repository, revision):
            return check_directory(_download(uri, repository, revision))
        case RemoteModel(scheme):
            raise NotSupported(
                f"model URIs with '{scheme}://' are not served here; use hf://, file:// or a mounted directory"
            )


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
    return _read_object(directory / "config.json")


def read_generation_config(directory: Path) -> dict[str, object]:
    """The parsed generation_config.json, {} where there is none. Raises InvalidInput when it is broken."""
    path = directory / "generation_config.json"
    return _read_object(path) if path.is_file() else {}


def _read_object(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} is not a JSON object")
    return content


def weights_bytes(directory: Path) -> int:
    """Size of the safetensors files, which is about what the loaded weights take."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _bundled(name: str) -> Path:
    try:
        return bundled_model_path(name)
    except LookupError as error:
        raise ModelNotFound(str(error.args[0])) from None


def _download(uri: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        files = HfApi().list_repo_files(repository, revision=revision)
        if not any(file.endswith(".safetensors") for file in files):
            raise InvalidInput(f"{uri} has no safetensors weights; use a revision or repository that has")
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(ALLOWED_FILES)))
    except RepositoryNotFoundError:
        raise ModelNotFound(f"the hub has no model {uri}, or it is private: set HF_TOKEN") from None
    except HfHubHTTPError as error:
        raise Unavailable(f"the hub refused {uri}: {error}") from error
    except (OSError, LocalEntryNotFoundError) as error:
        return _from_cache(uri, repository, revision, error)


def _from_cache(uri: str, repository: str, revision: str | None, cause: Exception) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(ALLOWED_FILES), local_files_only=True)
        )
    except OSError:
        raise Unavailable(f"{uri} is not in the cache and the hub cannot be reached: {cause}") from cause
