"""Starts processes that run a tenant's code or read a tenant's files, and get nothing of this one.

Responsible for what such a process is given: an empty environment, one socket or pipe, limits. `worker_main` sets them
before it reads its first byte. For one answer `answer_of` waits (blocking); for many see `template_workers`.
"""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from typing import Literal

from pilotlight_engine.process import limited_worker
from pilotlight_engine.process.limited_worker import OUT_OF_MEMORY

Task = Literal["render", "compile", "tokenizer"]

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """`cpu_s`: CPU time of one piece of work, by a kernel timer (RLIMIT_CPU knows whole seconds of a whole life only).

    `wall_s`: what the waiting side grants it. `memory_bytes`: address space beyond what the interpreter has.
    """

    cpu_s: float
    wall_s: float
    memory_bytes: int


class ProcessEnded(Exception):
    """It ended before it had answered; the message says what limit it met. `at_limit`: it met one of its own, and would
    again."""

    def __init__(self, why: str, at_limit: bool = True) -> None:
        super().__init__(why)
        self.at_limit = at_limit


def command(task: Task, limits: ProcessLimits) -> list[str]:
    return limited_worker.command("pilotlight_text.templates.worker_main", task, limits.cpu_s, limits.memory_bytes)


def ended(status: int | None, limits: ProcessLimits) -> ProcessEnded:
    """What to tell of an exit status (negative: a signal); None: it was killed for the wall clock."""
    if status is None:
        return ProcessEnded(f"did not end within {limits.wall_s:g} s")
    if status == -signal.SIGPROF:
        return ProcessEnded(f"took more than {limits.cpu_s:g} s of CPU time")
    if status in (OUT_OF_MEMORY, -signal.SIGABRT):  # Rust's allocator aborts
        return ProcessEnded(f"took more than {limits.memory_bytes // MIB} MiB of memory")
    return ProcessEnded(f"ended its process with status {status}", at_limit=False)


def answer_of(task: Task, data: bytes, limits: ProcessLimits) -> bytes:
    """What a fresh process makes of `data`. Blocking. Raises ProcessEnded."""
    try:
        done = subprocess.run(
            command(task, limits),
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            timeout=limits.wall_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ended(None, limits) from None
    if done.returncode != 0:
        raise ended(done.returncode, limits)
    return done.stdout
