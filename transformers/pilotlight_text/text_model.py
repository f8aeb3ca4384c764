"""What the routes share: the model's names, its tokenizer and template once they are loaded, and the generator.

Responsible for saying "not ready yet" until they are. Readiness never asks the predictor: scaled to zero it is woken by
the first request, not by a probe.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pilotlight_protocol.errors import ModelNotFound, Unavailable
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.text_generation import TextGenerator
from pilotlight_text.token_source import AnswerFacts, PredictorClient
from pilotlight_text.tokenization.text_codec import TextCodec
from pilotlight_wire.handlers import RequestContext

VERSION = "1"


@dataclass(frozen=True, slots=True)
class LoadedText:
    """The parts that come from the model's files. `loaded_at_s`: Unix seconds, `created` in OpenAI's model list."""

    codec: TextCodec
    template: ChatTemplate
    loaded_at_s: int


class TextModel:
    """`names`: the model's, then those of the adapters the predictor serves."""

    def __init__(self, names: Sequence[str], predictor: PredictorClient) -> None:
        self.names = tuple(names)
        self._predictor = predictor
        self._loaded: LoadedText | None = None
        self._generator: TextGenerator | None = None

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None

    def loaded(self) -> LoadedText:
        """Raises Unavailable until the tokenizer is loaded."""
        if self._loaded is None:
            raise self.why_not_loaded()
        return self._loaded

    def generator(self) -> TextGenerator:
        """Raises Unavailable until the tokenizer is loaded."""
        if self._generator is None:
            raise self.why_not_loaded()
        return self._generator

    def why_not_loaded(self) -> Unavailable:
        return Unavailable(f"the tokenizer of model '{self.name}' is not loaded; try again", retry_after_s=1)

    def set_loaded(self, loaded: LoadedText | None) -> None:
        self._loaded = loaded
        self._generator = None if loaded is None else TextGenerator(self._predictor, loaded.codec.vocabulary)

    def require(self, model_name: str) -> None:
        """Raises ModelNotFound unless that name is served here."""
        if model_name not in self.names:
            raise ModelNotFound(
                f"there is no model '{model_name}' here; this server has {', '.join(self.names)}", param="model"
            )


@contextmanager
def timed(context: RequestContext, phase: str) -> Iterator[None]:
    """Adds the milliseconds spent inside to the request's `Server-Timing`."""
    started_s = time.perf_counter()
    try:
        yield
    finally:
        context.server_timing[phase] = (time.perf_counter() - started_s) * 1000


def add_facts(context: RequestContext, facts: Iterable[AnswerFacts]) -> None:
    """Pass the predictor's phases and headers on; of several answers the slowest of each phase counts."""
    for answer in facts:
        context.response_headers.update(answer.headers)
        for phase, milliseconds in answer.server_timing.items():
            context.server_timing[phase] = max(milliseconds, context.server_timing.get(phase, 0.0))
