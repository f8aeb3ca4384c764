"""A warm pool's agent reduced to its sockets: starts a zygote, forks hosts, sends control frames, awaits answers."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from pilotlight_engine.process import machine
from pilotlight_engine.process.environment import engine_environment
from pilotlight_engine.process.work_dir import open_work_dir
from pilotlight_protocol.engine_frames import (
    AgentFrame,
    Boot,
    Booted,
    ControlFrame,
    Failed,
    Fork,
    Forked,
    Grant,
    Granted,
    HostConfig,
    Swap,
    Swapped,
    ZygoteFrame,
    ZygoteReady,
)
from pilotlight_protocol.frame_codec import FrameSplitter, encode

F = TypeVar("F")


class Frames:
    """Blocking reader and writer of one socket; every wait has a deadline."""

    def __init__(self, sock: socket.socket, frame_type: object) -> None:
        self.sock = sock
        self.seen: list[object] = []
        self._decoder = msgspec.msgpack.Decoder(frame_type)
        self._splitter = FrameSplitter()
        self._unread: list[object] = []

    def send(self, frame: AgentFrame) -> None:
        self.sock.sendall(encode(frame))

    def next(self, deadline_s: float = 60.0) -> object | None:
        """The next frame; None when the peer has closed. Raises TimeoutError."""
        until_s = time.monotonic() + deadline_s
        while not self._unread:
            self.sock.settimeout(max(0.01, until_s - time.monotonic()))
            data = self.sock.recv(1 << 16)
            if not data:
                return None
            self._unread = [self._decoder.decode(body) for body in self._splitter.feed(data)]
        frame = self._unread.pop(0)
        self.seen.append(frame)
        return frame

    def until(self, *wanted: type[F], deadline_s: float = 60.0) -> F:
        """Skips what else comes; a host's `Failed` and the end of the connection fail the test."""
        until_s = time.monotonic() + deadline_s
        while True:
            frame = self.next(until_s - time.monotonic())
            if isinstance(frame, wanted):
                return frame
            assert frame is not None, f"closed while waiting for {wanted}"
            assert not isinstance(frame, Failed), frame.reason


class Host(Frames):
    """The agent's end of a host's control socket; `pid` once it is known."""

    def __init__(self, sock: socket.socket, pid: int = 0) -> None:
        super().__init__(sock, ControlFrame)
        self.pid = pid
        self.booted: Booted | None = None

    def wait_booted(self, deadline_s: float = 240.0) -> Booted:
        self.booted = self.until(Booted, deadline_s=deadline_s)
        return self.booted

    def swap(self, model_dir: Path, name: str = "other", generation: int = 1) -> Swapped:
        self.send(Swap(generation, str(model_dir), name))
        return self.until(Swapped)

    def grant(self, lease_id: str, secret: str, tenant: str) -> None:
        self.send(Grant(lease_id, hashlib.sha256(secret.encode()).hexdigest(), tenant))
        assert self.until(Granted).lease_id == lease_id


class ZygoteProcess:
    """`python -m pilotlight_engine.host.zygote`; ends, with its hosts, when the block is left."""

    def __init__(self, work_dir: Path, log: Path) -> None:
        self._log = log.open("ab")
        self.work_dir = work_dir
        self._hosts: list[Host] = []

    def __enter__(self) -> ZygoteProcess:
        ours, theirs = socket.socketpair()
        self.began_s = time.monotonic()
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "pilotlight_engine.host.zygote", str(theirs.fileno()),
                    "--work_dir", str(self.work_dir),
                ],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.frames = Frames(ours, ZygoteFrame)
        return self

    def wait_ready(self, deadline_s: float = 120.0) -> ZygoteReady:
        return self.frames.until(ZygoteReady, deadline_s=deadline_s)

    def fork(self, config: HostConfig) -> Host:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.frames.sock, [encode(Fork(config))], [theirs.fileno(), self._log.fileno()])
            forked = self.frames.until(Forked)
        assert forked.slot == config.slot
        host = Host(ours, forked.pid)
        self._hosts.append(host)
        return host

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self._hosts:
            host.sock.close()
        self.frames.sock.close()
        self.process.wait(10.0)
        self._log.close()


def exec_host(
    config: HostConfig,
    work_dir: Path,
    log: Path,
    program: tuple[str, ...] = (sys.executable, "-m", "pilotlight_engine.host.engine_host"),
) -> tuple[subprocess.Popen[bytes], Host]:
    """A host without a zygote."""
    ours, theirs = socket.socketpair()
    with theirs, log.open("ab") as output:
        process = subprocess.Popen(
            [*program, str(theirs.fileno())],
            env=engine_environment(
                os.environ, open_work_dir(str(work_dir), os.environ), cpus=machine.limits().cpus,
                preload=machine.cpu_preload(), instruction_set=machine.instruction_set(),
            ),
            pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    host = Host(ours, process.pid)
    host.send(Boot(config))
    return process, host


def private_dir(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(path, 0o700)  # noqa: PTH101
    return path
