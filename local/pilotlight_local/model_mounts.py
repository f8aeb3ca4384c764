"""From a model URI (`storageUri`, uriScheme://…) to a local directory that a pod mounts.

Folders are used where they are; a model of the hub is downloaded once into the state directory by a child process.
Must not: import the hub's client into this process.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from pilotlight_models import bundled_model_path
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.model_uri import BundledModel, Folder, HubModel, RemoteModel, parse_model_uri

from pilotlight_local.errors import ModelUnavailable
from pilotlight_local.process_pod import PodProcess

LOG_LINES = 8


class ModelMounts:
    """Resolves URIs; downloads are shared by all who ask for the same one."""

    def __init__(self, models: Path, download_env: Mapping[str, str]) -> None:
        """Args:
        models: where downloaded models lie.
        download_env: environment of the download process (PATH, proxies, hub token).
        """
        self._models = models
        self._download_env = download_env
        self._downloads: dict[str, asyncio.Task[Path]] = {}
        self._processes: dict[str, PodProcess] = {}

    async def resolve(self, uri: str) -> Path:
        """The model's directory. Raises ModelUnavailable with what to do."""
        try:
            place = parse_model_uri(uri)
        except InvalidInput as error:
            raise ModelUnavailable(error.message) from error
        match place:
            case Folder(path):
                return _existing(Path(path), uri)
            case BundledModel(name):
                return _bundled(name)
            case HubModel():
                return await self._downloaded(uri, place)
            case RemoteModel():
                raise ModelUnavailable(
                    f"the embedded platform cannot fetch {uri}: use file://, bundled:// or hf://, or fetch it with "
                    "`pilotlight prefetch` and use file://"
                )

    def progress(self, uri: str) -> str | None:
        """How far a download is (`download 42%`), None when none is running."""
        process = self._processes.get(uri)
        if process is None:
            return None
        for line in reversed(process.log_tail(LOG_LINES)):
            try:
                percent = json.loads(line)["percent"]
            except (ValueError, KeyError, TypeError):
                continue
            return f"download {percent}%"
        return "download"

    async def _downloaded(self, uri: str, model: HubModel) -> Path:
        if uri not in self._downloads:
            self._downloads[uri] = asyncio.create_task(self._download(uri, model))
            self._downloads[uri].add_done_callback(lambda _: self._downloads.pop(uri, None))
        # One pod that is stopped must not take the download away from the others.
        return await asyncio.shield(self._downloads[uri])

    async def _download(self, uri: str, model: HubModel) -> Path:
        name = model.repository if model.revision is None else f"{model.repository}@{model.revision}"
        target = self._models / name.replace("/", "--")
        if target.is_dir():
            return target
        partial = target.with_name(target.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        log = target.with_name(target.name + ".log")
        log.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "pilotlight_local.model_download", name, str(partial)]
        try:
            process = await PodProcess.start(argv, self._download_env, self._models, log)
        except OSError as error:
            raise ModelUnavailable(f"{uri} cannot be downloaded: {error}") from error
        self._processes[uri] = process
        try:
            exit_code = await process.wait()
        finally:
            del self._processes[uri]
            await process.stop(grace_s=0.0)
        if exit_code != 0:
            reason = "\n".join(line for line in process.log_tail(LOG_LINES) if not line.startswith("{"))
            raise ModelUnavailable(f"{uri} cannot be downloaded: {reason}")
        partial.rename(target)
        return target

    async def close(self) -> None:
        """End downloads; what is half done is resumed next time."""
        for download in list(self._downloads.values()):
            download.cancel()
            await asyncio.wait([download])


def _existing(path: Path, uri: str) -> Path:
    if not path.is_absolute():
        raise ModelUnavailable(f"{uri} is not an absolute path; write file:///absolute/directory")
    if not path.is_dir():
        raise ModelUnavailable(f"{uri} is not a directory on this machine")
    return path


def _bundled(name: str) -> Path:
    try:
        return bundled_model_path(name)
    except LookupError as error:
        raise ModelUnavailable(str(error.args[0])) from error
