"""The one directory that holds everything the embedded platform keeps: lock, control socket, logs, scratch.

Must not: know what an endpoint is, or read the environment (the composition root gives the path).
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pilotlight_local.errors import PlatformRunningError


@dataclass(frozen=True)
class RunningPlatform:
    """What a running platform says about itself on disk."""

    pid: int
    port: int


@dataclass(frozen=True)
class StateDir:
    """Paths below the state directory."""

    root: Path

    @property
    def control_socket(self) -> Path:
        return self.root / "control.sock"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"

    @property
    def downloads(self) -> Path:
        """Logs of downloads into the model store."""
        return self.root / "downloads"

    @property
    def pool(self) -> Path:
        """Sockets and log of the warm pool."""
        return self.root / "pool"

    @property
    def gateway(self) -> Path:
        """What the gateway keeps."""
        return self.root / "gateway"

    @property
    def ordered_endpoints(self) -> Path:
        """Endpoints that were ordered while a platform ran."""
        return self.root / "endpoints"

    @property
    def creation_times(self) -> Path:
        """When each endpoint was first there."""
        return self.root / "created.json"

    @property
    def gateway_log(self) -> Path:
        return self.gateway / "logs" / "gateway.log"

    @property
    def pool_logs(self) -> Path:
        return self.pool / "logs"

    def component_logs(self, namespace: str, endpoint: str, component: str) -> Path:
        """Folder of the logs of all pods of one component."""
        return self.root / "logs" / namespace / endpoint / component

    def scratch(self, pod_name: str) -> Path:
        """Working directory and empty volumes of one pod; removed when it has ended."""
        return self.root / "pods" / pod_name

    @contextlib.contextmanager
    def lock(self, port: int) -> Iterator[None]:
        """Hold the directory for this process. Raises PlatformRunningError when another platform has it."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._in_use() from error
            shutil.rmtree(self.root / "pods", ignore_errors=True)
            for logs in (self.root / "logs", self.pool_logs):
                _set_aside(logs)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "port": port}).encode(), 0)
            yield
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _in_use(self) -> PlatformRunningError:
        running = self.running()
        if running is None:
            return PlatformRunningError(self.root, None, None)
        return PlatformRunningError(self.root, running.pid, running.port)

    def is_locked(self) -> bool:
        """Whether a platform holds the directory now."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def running(self) -> RunningPlatform | None:
        """Pid and port of the platform that wrote the lock file last, when it has not ended in order."""
        try:
            facts = json.loads(self.lock_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return RunningPlatform(pid=facts["pid"], port=facts["port"])


def _set_aside(logs: Path) -> None:
    """Logs are of the platform that runs; those of the one before it are kept beside them, older ones are not."""
    before = logs.with_name(logs.name + ".before")
    if logs.is_dir():
        shutil.rmtree(before, ignore_errors=True)
        logs.rename(before)
