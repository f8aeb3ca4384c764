"""Constraints made ready beside the engine's steps: the tokenizer's loading and every compilation. Adapter to xgrammar
and llguidance.

One thread, started by the first constrained request, works through a bounded queue: it loads the tokenizer of the model
that is served, unless the one that is held has the same files, has each constraint tried in a limited process, and
compiles what passed, as both libraries' compilers leave the interpreter to others meanwhile. What is ready is kept,
within a bound, until another tokenizer comes. It must not know requests, nor vLLM.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotlight_engine.structured_outputs.backend_calls import (
    CACHED_BYTES,
    compile_xgrammar,
    guidance_grammar,
    needs_special_tokens,
)
from pilotlight_engine.structured_outputs.grammar_sources import PARAM, GrammarSource, sources_of
from pilotlight_engine.structured_outputs.trial_process import TokenizerTexts, TrialProcess
from pilotlight_engine.vllm_adapter.output_grammar import GuidanceMatcher, Matcher, XgrammarMatcher
from pilotlight_models.folder_files import FileRefused, read_file
from pilotlight_protocol.errors import InternalError, InvalidInput, PilotlightError, TooManyRequests
from pilotlight_protocol.structured_outputs import StructuredOutputs

MOST_QUEUED = 64
QUEUED_S = 30.0
MOST_KEPT = 256
MOST_KEPT_BYTES = 128 * 2**20
_GUIDANCE_BYTES_A_CHAR = 64

Key = tuple[str, str, bool, bool]


@dataclass(frozen=True)
class ServedTokenizer:
    """Whose tokenizer: `folder`'s, as the model that is served uses it."""

    folder: Path
    vocab_size: int
    eos_ids: tuple[int, ...]


@dataclass(frozen=True)
class Compiled:
    """A constraint that can be enforced; each choice gets a matcher of its own. `faults`: why it could not be, as came
    out while it was: nobody is let in with it again."""

    source: GrammarSource
    grammar: Any
    size_bytes: int
    eos_ids: tuple[int, ...]
    faults: list[str] = field(default_factory=list)

    def matcher(self, stop_ids: Collection[int]) -> Matcher:
        """Raises InvalidInput."""
        if self.faults:
            raise InvalidInput(f"the output cannot be constrained: {self.faults[0]}", param=PARAM)
        if self.source.backend == "guidance":
            return GuidanceMatcher(self.grammar.deep_copy(), self.eos_ids)
        import xgrammar

        return XgrammarMatcher(
            xgrammar.GrammarMatcher(self.grammar, override_stop_tokens=sorted(stop_ids) or None), stop_ids
        )


@dataclass(frozen=True)
class _Job:
    ticket: int
    asked: StructuredOutputs
    served: ServedTokenizer
    until: float


class ConstraintPreparation:
    """`begin`, `ready`, `take` and `serve` belong to the engine's thread. `backend`: the engine's configured one.

    `on_ready` is called by the other thread when `take` has news.
    """

    def __init__(self, backend: str, on_ready: Callable[[], None]) -> None:
        self._backend = backend
        self._on_ready = on_ready
        self._served: ServedTokenizer | None = None
        self._jobs: queue.Queue[_Job] = queue.Queue(MOST_QUEUED)
        self._done: deque[tuple[int, Compiled | PilotlightError]] = deque()
        self._thread: threading.Thread | None = None
        self._held: HeldTokenizer | None = None
        self._held_for: ServedTokenizer | None = None
        self._trial = TrialProcess()

    def serve(self, tokenizer: ServedTokenizer) -> None:
        """From now on; nothing is read before a request needs it."""
        self._served = tokenizer

    def ready(self, asked: StructuredOutputs) -> Compiled | None:
        """What is here already, for the model that is served now."""
        held = self._held
        if held is None or self._held_for != self._served:
            return None
        kept = held.kept(_key(asked))
        return kept if isinstance(kept, Compiled) else None

    def begin(self, ticket: int, asked: StructuredOutputs) -> None:
        """`take` tells of `ticket` later. Raises TooManyRequests."""
        assert self._served is not None
        try:
            self._jobs.put_nowait(_Job(ticket, asked, self._served, time.monotonic() + QUEUED_S))
        except queue.Full:
            raise _too_many() from None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="constraints", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """The limited process ends; an engine's own end takes it along."""
        self._trial.end()

    @property
    def has_news(self) -> bool:
        return bool(self._done)

    def take(self) -> list[tuple[int, Compiled | PilotlightError]]:
        taken = []
        while self._done:
            taken.append(self._done.popleft())
        return taken

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            self._done.append((job.ticket, self._result(job)))
            self._on_ready()

    def _result(self, job: _Job) -> Compiled | PilotlightError:
        try:
            if time.monotonic() > job.until:
                raise _too_many()
            return self._tokenizer(job.served).compiled(job.asked, self._backend)
        except PilotlightError as error:
            return error
        except BaseException as error:  # a panic of the Rust libraries is a BaseException
            return InternalError(f"the constraint could not be made ready: {type(error).__name__}")

    def _tokenizer(self, served: ServedTokenizer) -> HeldTokenizer:
        if self._held is not None and self._held_for == served:
            return self._held
        try:
            text = read_file(served.folder / "tokenizer.json")
        except (OSError, FileRefused):
            raise InvalidInput(
                "structured outputs need the model's tokenizer.json, which cannot be read", param=PARAM
            ) from None
        digest = hashlib.sha256(text + repr((served.vocab_size, served.eos_ids)).encode()).digest()
        if self._held is None or self._held.digest != digest:
            self._held_for = self._held = None
            texts = self._trial.load(text, served.vocab_size, list(served.eos_ids))
            self._held = HeldTokenizer(digest, texts, served, self._trial)
        self._held_for = served
        return self._held


class HeldTokenizer:
    """The one tokenizer that is held, and what was compiled for it. `digest`: of its files and what the model makes of
    them."""

    def __init__(self, digest: bytes, texts: TokenizerTexts, served: ServedTokenizer, trial: TrialProcess) -> None:
        self.digest = digest
        self._texts = texts
        self._served = served
        self._trial = trial
        self._compilers: dict[bool, Any] = {}
        self._guidance: Any = None
        self._kept: OrderedDict[Key, Compiled | InvalidInput] = OrderedDict()
        self._kept_bytes = 0

    def kept(self, key: Key) -> Compiled | InvalidInput | None:
        return self._kept.get(key)

    def compiled(self, asked: StructuredOutputs, backend: str) -> Compiled:
        """Raises InvalidInput: what is refused once is refused at once from then on."""
        key = _key(asked)
        kept = self._kept.get(key)
        if kept is None:
            try:
                kept = self._compile(self._trial.choose(sources_of(asked, backend)))
            except InvalidInput as refusal:
                kept = refusal
            self._keep(key, kept)
        if isinstance(kept, InvalidInput):
            raise InvalidInput(kept.message, param=kept.param)
        return kept

    def _compile(self, source: GrammarSource) -> Compiled:
        if source.backend == "guidance":
            import llguidance

            if self._guidance is None:
                self._guidance = llguidance.LLTokenizer(
                    self._texts.text, n_vocab=self._served.vocab_size, eos_token=list(self._served.eos_ids)
                )
            grammar: Any = llguidance.LLMatcher(self._guidance, guidance_grammar(llguidance, source), log_level=0)
            size_bytes = _GUIDANCE_BYTES_A_CHAR * len(source.text)
        else:
            grammar = compile_xgrammar(self._compiler(special=needs_special_tokens(source)), source)
            size_bytes = grammar.memory_size_bytes
        return Compiled(source, grammar, size_bytes, self._served.eos_ids)

    def _compiler(self, *, special: bool) -> Any:
        if special not in self._compilers:
            import xgrammar

            text = self._texts.special if special else self._texts.plain
            info = xgrammar.TokenizerInfo.deserialize_json(text)
            self._compilers[special] = xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=CACHED_BYTES)
        return self._compilers[special]

    def _keep(self, key: Key, result: Compiled | InvalidInput) -> None:
        self._kept[key] = result
        self._kept_bytes += _size(result)
        while len(self._kept) > MOST_KEPT or (self._kept_bytes > MOST_KEPT_BYTES and len(self._kept) > 1):
            self._kept_bytes -= _size(self._kept.popitem(last=False)[1])


def _size(kept: Compiled | InvalidInput) -> int:
    return kept.size_bytes if isinstance(kept, Compiled) else 0


def _key(asked: StructuredOutputs) -> Key:
    return (*asked.constraint, asked.disable_any_whitespace, asked.disable_additional_properties)


def _too_many() -> TooManyRequests:
    return TooManyRequests("too many constraints are waiting to be compiled; try again", retry_after_s=2, param=PARAM)
