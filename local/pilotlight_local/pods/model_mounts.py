"""From a model URI (`storageUri`, uriScheme://…) to a local directory that a pod mounts.

Folders and bundled models are used where they are. Everything else is fetched into the model store by a child process,
`pilotlight prefetch`: verified, resumed, once for all who ask, and there at once if it was fetched before. What is
mounted is pinned in the store, so that it is not evicted under a pod. Must not: import the store into this process.
"""

import asyncio
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from pilotlight_local.errors import ModelUnavailable
from pilotlight_local.pods.process_pod import PodProcess
from pilotlight_models.in_place import folder_in_place
from pilotlight_protocol.errors import InvalidInput, ModelNotFound
from pilotlight_protocol.model_reference import parse_model_reference

CLAIMS_FOLDER = Path("/mnt/pvc")
LOG_LINES = 8
LOG_NAME_CHARS = 16


class ModelMounts:
    """Resolves URIs; downloads are shared by all who ask for the same one."""

    def __init__(self, logs: Path, store: Path, download_env: Mapping[str, str]) -> None:
        """Args:
        logs: where the output of downloads goes.
        store: the model store's folder.
        download_env: environment of the download process (PATH, proxies, tokens).
        """
        self.store = store
        self._logs = logs
        self._download_env = download_env
        self._downloads: dict[str, asyncio.Task[Path]] = {}
        self._processes: dict[str, PodProcess] = {}

    async def resolve(self, uri: str) -> Path:
        """The model's directory. Raises ModelUnavailable with what to do."""
        try:
            reference = parse_model_reference(uri)
            folder = folder_in_place(reference)
        except (InvalidInput, ModelNotFound) as error:
            raise ModelUnavailable(error.message) from error
        if folder is not None:
            return _existing(folder, uri)
        return await self._downloaded(reference.uri)

    def progress(self, uri: str) -> str | None:
        """How far a download is (`downloading 1.2 GB of 3.0 GB`), None when none is running."""
        process = self._processes.get(uri)
        if process is None:
            return None
        # `pilotlight prefetch` writes "STATE URI  DONE of TOTAL  RATE  LEFT".
        for line in reversed(process.log_tail(LOG_LINES)):
            state, _, rest = line.partition(" ")
            _, amount, _ = (*rest.split("  "), "", "")[:3]
            if " of " in amount:
                return f"{state} {amount}"
        return "downloading"

    async def _downloaded(self, uri: str) -> Path:
        if uri not in self._downloads:
            self._downloads[uri] = asyncio.create_task(self._download(uri))
            self._downloads[uri].add_done_callback(lambda _: self._downloads.pop(uri, None))
        # One pod that is stopped must not take the download away from the others.
        return await asyncio.shield(self._downloads[uri])

    async def _download(self, uri: str) -> Path:
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{hashlib.sha256(uri.encode()).hexdigest()[:LOG_NAME_CHARS]}.log"
        log.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "pilotlight_local", "prefetch", uri, "--pin", "--store", str(self.store)]
        argv += ["--claims", str(CLAIMS_FOLDER)]
        try:
            process = await PodProcess.start(argv, self._download_env, self._logs, log)
        except OSError as error:
            raise ModelUnavailable(f"{uri} cannot be downloaded: {error}") from error
        self._processes[uri] = process
        try:
            exit_code = await process.wait()
        finally:
            del self._processes[uri]
            await process.stop(grace_s=0.0)
        # Its last line is "DIGEST  SIZE  TIER  FOLDER", or "Error: …".
        last = next(iter(process.log_tail(1)), "")
        if exit_code != 0:
            raise ModelUnavailable(f"{uri} cannot be downloaded: {last.removeprefix('Error: ')}")
        return Path(last.split("  ", 3)[-1])

    async def close(self) -> None:
        """End downloads; what is half done is resumed next time."""
        for download in list(self._downloads.values()):
            download.cancel()
            await asyncio.wait([download])


def missing_here(uri: str) -> str:
    """Why a model that lies on this machine's file systems is not there, "" for what is there or is fetched."""
    try:
        reference = parse_model_reference(uri)
        claimed = CLAIMS_FOLDER / reference.path
        if reference.scheme == "pvc" and not claimed.is_dir():
            return f"{uri}: there is no folder {claimed}; claims are looked for in {CLAIMS_FOLDER}"
        folder = folder_in_place(reference)
        if folder is not None:
            _existing(folder, uri)
    except (InvalidInput, ModelNotFound, ModelUnavailable) as error:
        return error.message
    return ""


def _existing(path: Path, uri: str) -> Path:
    if not path.is_absolute():
        raise ModelUnavailable(f"{uri} is not an absolute path; write file:///absolute/directory")
    if not path.is_dir():
        raise ModelUnavailable(f"{uri} is not a directory on this machine")
    return path
