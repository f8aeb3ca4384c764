"""Requests whose output is constrained, from their arrival to their last token. Adapter between vLLM and preparation.

    add ── constraint is here ──▶ enters the engine ──▶ masks and tokens ──▶ a failure, an end, or vLLM's own end
     └── else: waits beside the engine, which steps on ──▶ `step` lets it in, or tells why not

Everything is called by the engine's thread, but for `on_ready`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pilotlight_engine.structured_outputs.grammar_sources import PARAM
from pilotlight_engine.vllm_adapter.constraint_preparation import Compiled, ConstraintPreparation, ServedTokenizer
from pilotlight_engine.vllm_adapter.model_defaults import ModelDefaults
from pilotlight_engine.vllm_adapter.output_grammar import OutputGrammar
from pilotlight_engine.vllm_adapter.output_grammars import OutputGrammars
from pilotlight_protocol.engine_frames import GenerateRequest
from pilotlight_protocol.errors import InternalError, InvalidInput, PilotlightError

Arrived = tuple[int, GenerateRequest, Compiled | PilotlightError]


class ConstrainedRequests:
    """`on_ready` is called by another thread when `arrived` has somebody."""

    def __init__(self, core: Any) -> None:
        config = core.vllm_config
        self.on_ready: Callable[[], None] = lambda: None
        self._model = config.model_config
        self._grammars = OutputGrammars.installed(core)
        self._preparation = ConstraintPreparation(str(config.structured_outputs_config.backend), self._tell)
        self._waiting: dict[int, GenerateRequest] = {}
        self._running: dict[int, list[OutputGrammar]] = {}
        self._eos_ids: frozenset[int] = frozenset()

    def _tell(self) -> None:
        self.on_ready()

    def serve(self, defaults: ModelDefaults) -> None:
        """The model that the engine holds from now on."""
        self._eos_ids = frozenset(defaults.eos_ids)
        self._preparation.serve(
            ServedTokenizer(Path(self._model.model), int(self._model.get_vocab_size()), tuple(defaults.eos_ids))
        )

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def has_news(self) -> bool:
        return self._preparation.has_news

    def compiled(self, stream: int, request: GenerateRequest) -> Compiled | None:
        """The request's constraint; None when it waits for it now. Raises TooManyRequests, InvalidInput."""
        asked = request.parameters.structured_outputs
        assert asked is not None
        if getattr(self._model, "is_diffusion", False):
            raise InvalidInput("structured outputs are not available for diffusion models", param=PARAM)
        found = self._preparation.ready(asked)
        if found is None:
            self._preparation.begin(stream, asked)
            self._waiting[stream] = request
        return found

    def arrived(self) -> list[Arrived]:
        """Requests that waited and wait no more."""
        return [
            (ticket, request, result)
            for ticket, result in self._preparation.take()
            if (request := self._waiting.pop(ticket, None)) is not None
        ]

    @contextlib.contextmanager
    def entering(self, stream: int, request: GenerateRequest, compiled: Compiled) -> Iterator[None]:
        with self._grammars.entering(lambda params: self._grammar(params, request, compiled)) as made:
            yield
        self._running[stream] = made

    def forget(self, stream: int) -> None:
        self._waiting.pop(stream, None)
        self._running.pop(stream, None)

    def settle(self, stream: int, completion: Any) -> PilotlightError | None:
        """Of a choice that vLLM ended with an error: None when that was its end, which `completion` then says."""
        grammars = self._running.get(stream)
        if grammars is None:
            return InternalError("the engine failed on this request; try it again")
        grammar = grammars[completion.index]
        if not grammar.ended:
            return InvalidInput(
                f"the output cannot be constrained: {grammar.failure or 'its grammar broke'}", param=PARAM
            )
        kept = 0
        while kept < len(completion.token_ids) and completion.token_ids[kept] in grammar.stop_ids:
            kept += 1
        completion.token_ids = list(completion.token_ids[:kept])
        completion.logprobs = completion.logprobs[:kept] if completion.logprobs else completion.logprobs
        completion.finish_reason, completion.stop_reason = "stop", None
        return None

    def _grammar(self, params: Any, request: GenerateRequest, compiled: Compiled) -> OutputGrammar:
        stop_ids = params.all_stop_token_ids
        ignored_ids = self._eos_ids - set(request.parameters.stop_token_ids) if params.ignore_eos else frozenset()
        grammar = OutputGrammar(
            compiled.matcher(stop_ids),
            stop_ids,
            ignored_ids & set(stop_ids),
            must_end=bool(ignored_ids) or params.min_tokens > 0,
            words=self._grammars.words,
            on_expensive=compiled.faults.append,
        )
        delivered = request.prompt_token_ids[len(request.prompt_token_ids) - request.output_tokens :]
        if not grammar.accept_tokens("", delivered):
            raise InvalidInput("what was generated before does not satisfy the constraint; send it again", param=PARAM)
        if grammar.ended:
            raise InvalidInput("nothing can be generated: only an empty output satisfies the constraint", param=PARAM)
        return grammar
