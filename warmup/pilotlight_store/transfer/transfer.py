"""Downloads a listing into a staging area: workers fetch runs, hashers follow each file's growing prefix.

sha256 must read a file in order and ranges arrive out of order. A worker whose block is the file's next one hashes it
while it is still in the core's cache; everything else (what others fetched ahead, what an earlier process left) is read
back from the page cache by a hasher. Blocking threads: sockets, pwrite and sha256 all release the interpreter's lock.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pilotlight_store.errors import DownloadCancelled, SourceUnavailable, VerificationFailed
from pilotlight_store.sources.source import BLOCK_BYTES, RemoteFile, Source
from pilotlight_store.transfer.bandwidth_gate import BandwidthGate
from pilotlight_store.transfer.disk import Staging
from pilotlight_store.transfer.file_hash import FileHash
from pilotlight_store.transfer.plan import FileProgress, Interval, Run, merged, missing, next_run, prefix_bytes, without
from pilotlight_store.transfer.retry import GiveUp, RetryRules, RetryState, after_failure, after_progress

_LOOK_AGAIN_S = 0.5


@dataclass(frozen=True)
class TransferSettings:
    """`chunk_bytes` is what a crash costs again per worker; `longest_run_bytes` the largest single request.

    `stall_s` without a block that arrived or was hashed ends the transfer: a server that drips bytes keeps every read
    within its own timeout. (curl's `--speed-time`; a block of 256 KiB in 300 s is 0.9 kB/s.)
    """

    workers: int = 4
    chunk_bytes: int = 8 * 1024 * 1024
    longest_run_bytes: int = 256 * 1024 * 1024
    stall_s: float = 300.0
    retries: RetryRules = field(default_factory=RetryRules)


@dataclass
class _File:
    hash: FileHash
    free: tuple[Interval, ...]
    done: tuple[Interval, ...]
    resumed: bool
    busy: int = 0
    failures: int = 0
    hashing: bool = False
    sha256: str | None = None


class Transfer:
    """One model's download. `run` may be called once."""

    def __init__(
        self,
        source: Source,
        files: Sequence[RemoteFile],
        staging: Staging,
        settings: TransferSettings,
        gate: BandwidthGate,
        cancel: threading.Event,
    ) -> None:
        self._source = source
        self._remote = files
        self._staging = staging
        self._settings = settings
        self._gate = gate
        self._cancel = cancel
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._retries = RetryState()
        self._files: list[_File] = []
        self._counting = threading.Lock()
        self._arrived_bytes = 0

    @property
    def done_bytes(self) -> int:
        """Bytes that are on disk, resumed ones included; for showing."""
        return min(self._arrived_bytes, sum(file.size_bytes for file in self._remote))

    def run(self, report: Callable[[], None]) -> tuple[str, ...]:
        """Every file's sha256, in the listing's order. `report` is called a few times per second.

        Raises the source's errors, VerificationFailed, StoreFull, or DownloadCancelled; threads have ended by then.
        """
        done = self._staging.open()
        try:
            self._files = [
                _File(FileHash(file), missing(file.size_bytes, intervals), intervals, bool(intervals))
                for file, intervals in zip(self._remote, done, strict=True)
            ]
            for number, file in enumerate(self._files):
                if file.free and not self._remote[number].ranged:
                    self._forget(number)
            self._count()
            threads = [
                threading.Thread(
                    target=self._guarded, args=(work,), name=f"store-{work.__name__.strip('_')}-{number}", daemon=True
                )
                for work in (self._fetch_runs, self._hash_files)
                for number in range(self._settings.workers)
            ]
            for thread in threads:
                thread.start()
            self._wait(threads, report)
        finally:
            self._staging.close()
        if self._failure is not None:
            raise self._failure
        return tuple(str(file.sha256) for file in self._files)

    def _wait(self, threads: Sequence[threading.Thread], report: Callable[[], None]) -> None:
        moved, moved_s = -1, time.monotonic()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
                    now_s, so_far = time.monotonic(), self._moved_bytes()
                    if so_far != moved:
                        moved, moved_s = so_far, now_s
                    elif now_s - moved_s > self._settings.stall_s:
                        self._fail(
                            SourceUnavailable(
                                f"{self._source.uri}: nothing arrived for {self._settings.stall_s:.0f} s; "
                                "try again later, it goes on from here"
                            )
                        )
                    if self._cancel.is_set():
                        self._fail(DownloadCancelled("the download was ended; the next one goes on from here"))
                    report()
        except BaseException as error:
            # A signal's exception (KeyboardInterrupt) or a failing `report`: the threads must not outlive this call.
            self._fail(error)
            for thread in threads:
                thread.join()

    def _moved_bytes(self) -> int:
        return self._arrived_bytes + sum(file.hash.position for file in self._files)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # handed to `run`, which raises it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
                self._stop.set()
                self._changed.notify_all()
            else:
                return
        self._source.abort()

    def _fetch_runs(self) -> None:
        while (run := self._claim()) is not None:
            try:
                self._fetch(run)
            except SourceUnavailable as error:
                self._give_back(run, error)
            else:
                with self._changed:
                    self._files[run.file].busy -= 1
                    self._changed.notify_all()

    def _claim(self) -> Run | None:
        settings = self._settings
        with self._changed:
            while not self._stop.is_set() and not all(file.sha256 for file in self._files):
                progress = [
                    FileProgress(remote.size_bytes, file.free, file.busy, remote.ranged)
                    for file, remote in zip(self._files, self._remote, strict=True)
                ]
                run = next_run(progress, settings.workers, settings.chunk_bytes, settings.longest_run_bytes)
                if run is not None:
                    file = self._files[run.file]
                    file.free = without(file.free, run.start, run.end)
                    file.busy += 1
                    return run
                self._changed.wait(_LOOK_AGAIN_S)
        return None

    def _fetch(self, run: Run) -> None:
        """Records chunk by chunk, so that a failure or a kill costs the chunk under way."""
        chunk_bytes, position, recorded = self._settings.chunk_bytes, run.start, run.start
        for block in self._source.blocks(self._remote[run.file], run.start, run.end):
            size = len(block)
            if position + size > run.end:
                raise VerificationFailed(f"{self._remote[run.file].name}: the source sends more than it was asked for")
            self._gate.wait(size, self._stop)
            if self._stop.is_set():
                raise DownloadCancelled("another part of the download failed")
            self._staging.write(run.file, block, position)
            self._hash_if_next(run.file, block, position)
            position += size
            with self._counting:
                self._arrived_bytes += size
            border = position if position == run.end else position // chunk_bytes * chunk_bytes
            if border > recorded:
                self._arrived(run.file, recorded, border)
                recorded = border
        if position != run.end:
            raise SourceUnavailable(f"{self._remote[run.file].name}: {run.end - position} bytes did not arrive")

    def _hash_if_next(self, number: int, block: memoryview, position: int) -> None:
        ahead = self._files[number].hash
        if ahead.position == position and ahead.lock.acquire(blocking=False):
            try:
                if ahead.position == position:
                    ahead.update(block)
            finally:
                ahead.lock.release()

    def _arrived(self, number: int, start: int, end: int) -> None:
        self._staging.record(number, start, end)
        with self._changed:
            file = self._files[number]
            file.done = merged([*file.done, (start, end)])
            file.failures = 0
            self._retries = after_progress(self._retries, end - start)
            self._changed.notify_all()

    def _give_back(self, run: Run, error: SourceUnavailable) -> None:
        with self._changed:
            file, remote = self._files[run.file], self._remote[run.file]
            file.busy -= 1
            file.failures += 1
            if not remote.ranged:
                self._forget(run.file)
            elif file.hash.position > prefix_bytes(file.done):
                # Hashed from a chunk that will be fetched again, and may come differently.
                with file.hash.lock:
                    file.hash.restart()
            left = missing(run.end, [(0, run.start), *file.done])
            file.free = merged([*file.free, *left])
            self._count()
            jitter = random.random()  # noqa: S311
            decision, self._retries = after_failure(
                self._settings.retries, self._retries, file.failures, jitter, error.retry_after_s
            )
            self._changed.notify_all()
        if isinstance(decision, GiveUp):
            raise SourceUnavailable(
                f"{error.message} ({decision.reason}); try again later, it goes on from here"
            ) from error
        self._stop.wait(decision)

    def _count(self) -> None:
        """After a loss: what the journal would say. Chunks under way are left out from then on: it is for showing."""
        with self._counting:
            self._arrived_bytes = sum(end - start for file in self._files for start, end in file.done)

    def _forget(self, number: int) -> None:
        self._staging.forget(number)
        file = self._files[number]
        file.done, file.free, file.resumed = (), missing(self._remote[number].size_bytes, ()), False
        with file.hash.lock:
            file.hash.restart()

    def _hash_files(self) -> None:
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while (number := self._claim_hash()) is not None:
            self._hash(number, buffer)

    def _claim_hash(self) -> int | None:
        with self._changed:
            while not self._stop.is_set():
                waiting = [number for number, file in enumerate(self._files) if not file.sha256]
                if not waiting:
                    return None
                for number in waiting:
                    file = self._files[number]
                    prefix = prefix_bytes(file.done)
                    if not file.hashing and (prefix > file.hash.position or prefix == self._remote[number].size_bytes):
                        file.hashing = True
                        return number
                self._changed.wait(_LOOK_AGAIN_S)
        return None

    def _hash(self, number: int, buffer: memoryview) -> None:
        """Hash what is there in order and was not hashed on its way; at the file's end, judge it."""
        file, remote = self._files[number], self._remote[number]
        with file.hash.lock:
            while (left := prefix_bytes(file.done) - file.hash.position) > 0 and not self._stop.is_set():
                count = self._staging.read_into(number, buffer[: min(len(buffer), left)], file.hash.position)
                if count == 0:
                    raise VerificationFailed(f"{remote.name} became shorter in the store while it was downloaded")
                file.hash.update(buffer[:count])
        with self._changed:
            file.hashing = False
            if file.hash.position == remote.size_bytes == prefix_bytes(file.done):
                self._judge(number)
            self._changed.notify_all()

    def _judge(self, number: int) -> None:
        file, remote = self._files[number], self._remote[number]
        if file.hash.as_promised():
            file.sha256 = file.hash.sha256.hexdigest()
        elif file.resumed:
            # An earlier attempt left bytes that the disk lost or somebody changed: this once, fetch the file anew.
            self._forget(number)
            self._count()
        else:
            raise VerificationFailed(
                f"{remote.name} is not the promised file: its sha256 is {file.hash.sha256.hexdigest()}, "
                f"promised is {remote.sha256 or 'git ' + str(remote.git_sha1)}; nothing was published"
            )
