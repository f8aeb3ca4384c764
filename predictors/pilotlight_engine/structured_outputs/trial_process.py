"""The process in which a constraint is compiled for the first time, as the engine host holds it. Blocking.

Responsible for starting it with nothing of this process but a socket, for its deadlines, and for ending it. Belongs to
one thread.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from pilotlight_engine.process.limited_worker import BEGUN, HEADER, OUT_OF_MEMORY, command
from pilotlight_engine.structured_outputs.grammar_sources import PARAM, GrammarSource
from pilotlight_protocol.errors import InvalidInput, Unavailable

CPU_S = 3.0
WALL_S = 30.0
MEMORY_BYTES = 768 * 2**20
_WORKER = "pilotlight_engine.structured_outputs.compile_worker"
_START_S = 30.0
_END_S = 5.0
_ANSWER_BYTES = 256 * 2**20


@dataclass
class TokenizerTexts:
    """What the worker made of a tokenizer: xgrammar's serialized infos, without and with special tokens ("": not needed
    yet), and tokenizer.json as llguidance takes it."""

    plain: str
    text: str
    special: str = ""


class TrialProcess:
    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._tokenizer: tuple[bytes, int, list[int]] | None = None
        self._texts: TokenizerTexts | None = None

    def load(self, tokenizer_json: bytes, vocab_size: int, eos_ids: list[int]) -> TokenizerTexts:
        """Raises InvalidInput: the libraries do not take this tokenizer; Unavailable."""
        self.end()
        self._tokenizer = (tokenizer_json, vocab_size, eos_ids)
        self._texts = TokenizerTexts(**self._begin())
        return self._texts

    def choose(self, sources: list[GrammarSource]) -> GrammarSource:
        """The first that compiles within the limits. Raises InvalidInput: none does."""
        if self._process is None:
            self._begin()
        job = {"sources": [{"backend": s.backend, "form": s.form, "text": s.text} for s in sources]}
        answer = self._ask(job, b"", "the constraint cannot be compiled")
        assert self._texts is not None
        self._texts.special = self._texts.special or answer["special"]
        return sources[int(answer["chosen"])]

    def end(self) -> None:
        process, self._process = self._process, None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if process is not None:
            process.kill()
            process.wait(_END_S)

    def _begin(self) -> dict[str, Any]:
        assert self._tokenizer is not None
        tokenizer_json, vocab_size, eos_ids = self._tokenizer
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                command(_WORKER, CPU_S, MEMORY_BYTES),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
            )
        self._socket = ours
        try:
            ours.settimeout(_START_S)
            if ours.recv(len(BEGUN), socket.MSG_WAITALL) != BEGUN:
                raise OSError("it ended as it started")
        except OSError as error:
            self.end()
            raise Unavailable(f"the process that compiles constraints did not start: {error}") from error
        return self._ask(
            {"vocab_size": vocab_size, "eos_ids": eos_ids}, tokenizer_json, "the model's tokenizer cannot be used"
        )

    def _ask(self, job: dict[str, Any], body: bytes, refused: str) -> dict[str, Any]:
        assert self._socket is not None
        head, deadline = json.dumps(job).encode(), time.monotonic() + WALL_S
        try:
            self._socket.settimeout(WALL_S)
            self._socket.sendall(HEADER.pack(len(head)) + head + HEADER.pack(len(body)) + body)
            answer = json.loads(self._read(deadline))
        except (OSError, ValueError):
            late = time.monotonic() >= deadline
            why = self._why_ended(late=late)
            self.end()
            raise InvalidInput(f"{refused}: {why}", param=PARAM) from None
        if "refused" in answer:
            raise InvalidInput(f"{refused}: {answer['refused']}", param=PARAM)
        return dict(answer)

    def _read(self, deadline: float) -> bytes:
        header = self._receive(HEADER.size, deadline)
        length = HEADER.unpack(header)[0]
        if length > _ANSWER_BYTES:
            raise ValueError("the answer is too long")
        return self._receive(length, deadline)

    def _receive(self, length: int, deadline: float) -> bytes:
        assert self._socket is not None
        data = bytearray()
        while len(data) < length:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            more = self._socket.recv(min(length - len(data), 1 << 20))
            if not more:
                raise OSError("it ended")
            data += more
        return bytes(data)

    def _why_ended(self, *, late: bool) -> str:
        assert self._process is not None
        if late:
            return f"it takes longer than {WALL_S:g} s"
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "its process broke"
        if status == -signal.SIGPROF:
            return f"it takes more than {CPU_S:g} s of CPU time"
        if status in (OUT_OF_MEMORY, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGKILL):
            return f"it takes more than {MEMORY_BYTES // 2**20} MiB of memory, or breaks its compiler"
        return f"its process ended with status {status}"
