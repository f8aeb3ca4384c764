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
from pilotlight_protocol.byte_sizes import shown_size
from pilotlight_protocol.errors import InvalidInput, ModelNotFound
from pilotlight_protocol.model_reference import parse_model_reference
from pilotlight_protocol.prefetch_report import PrefetchReport, decode_report

CLAIMS_FOLDER = Path("/mnt/pvc")
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
        if uri not in self._downloads:
            return None
        report = _read_report(self._report_file(uri))
        if report is None or not report.total_bytes:
            return "downloading"
        return f"{report.state} {shown_size(report.done_bytes)} of {shown_size(report.total_bytes)}"

    async def _downloaded(self, uri: str) -> Path:
        if uri not in self._downloads:
            self._downloads[uri] = asyncio.create_task(self._download(uri))
            self._downloads[uri].add_done_callback(lambda _: self._downloads.pop(uri, None))
        # One pod that is stopped must not take the download away from the others.
        return await asyncio.shield(self._downloads[uri])

    async def _download(self, uri: str) -> Path:
        self._logs.mkdir(parents=True, exist_ok=True)
        report_file = self._report_file(uri)
        log = report_file.with_suffix(".log")
        for old in (report_file, log):
            old.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "pilotlight_local", "prefetch", uri, "--pin", "--store", str(self.store)]
        argv += ["--claims", str(CLAIMS_FOLDER), "--report", str(report_file)]
        try:
            process = await PodProcess.start(argv, self._download_env, self._logs, log)
        except OSError as error:
            raise ModelUnavailable(f"{uri} cannot be downloaded: {error}") from error
        try:
            exit_code = await process.wait()
        finally:
            await process.stop(grace_s=0.0)
        report = _read_report(report_file)
        if exit_code == 0 and report is not None and report.folder:
            return Path(report.folder)
        why = report.error if report is not None else ""
        raise ModelUnavailable(
            f"{uri} cannot be downloaded: "
            + (why or f"the download ended with code {exit_code}; see downloads/{log.name}")
        )

    def _report_file(self, uri: str) -> Path:
        return self._logs / f"{hashlib.sha256(uri.encode()).hexdigest()[:LOG_NAME_CHARS]}.json"

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


def _read_report(path: Path) -> PrefetchReport | None:
    """The newest report, None when there is none yet."""
    try:
        return decode_report(path.read_bytes())
    except FileNotFoundError:
        return None


def _existing(path: Path, uri: str) -> Path:
    if not path.is_absolute():
        raise ModelUnavailable(f"{uri} is not an absolute path; write file:///absolute/directory")
    if not path.is_dir():
        raise ModelUnavailable(f"{uri} is not a directory on this machine")
    return path
