"""A pooling model's transformer in the test's own process: a tokenizer of a few words, and a source of vectors."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter

from inline_templates import InlineTemplates
from text_app import TextApp
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.pooling import PoolingTask
from pilotlight_text.pooling_source import PooledAnswer, PoolingCall
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.text_model import LoadedText, library_codec
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenStream
from pilotlight_text.tokenization.pooling_traits import PoolingTraits

WORDS = ("the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "away")
CLS, SEP, FIRST_WORD = 1, 2, 4
SIZE = 16
LONGEST = 14


def words_tokenizer() -> Tokenizer:
    """As BERT's: [CLS] text [SEP], and for a pair [CLS] one [SEP] other [SEP], whose other half is of type 1."""
    vocabulary = {"[PAD]": 0, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": 3}
    vocabulary |= {word: FIRST_WORD + place for place, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return tokenizer


def pooling_text(task: PoolingTask, longest: int | None = LONGEST, *, lower_case: bool = False) -> LoadedText:
    traits = PoolingTraits(task, task == "classify", True, lower_case)
    codec = library_codec(words_tokenizer(), max_model_len=longest)
    template = ChatTemplate({}, {}, InlineTemplates(), max_output_chars=1000)
    return LoadedText(codec, template, int(time.time()), pooling=traits)


def counts(ids: list[int]) -> list[float]:
    """An embedding: how often each token is there."""
    found = Counter(ids)
    return [float(found[token]) for token in range(SIZE)]


class FakePoolingSource:
    """Implements TokenSource. An embedding counts its row's tokens; a score is how many tokens of a pair's second text
    are in the first."""

    def __init__(self, task: PoolingTask, error: PilotlightError | None = None) -> None:
        self.task = task
        self.error = error
        self.calls: list[PoolingCall] = []
        self.running = self.most_running = 0

    async def stream(self, request: TokenRequest) -> TokenStream:
        raise AssertionError("a pooling model is asked for no tokens")

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        self.calls.append(call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            if self.error is not None:
                raise self.error
            vectors = [self._vector(row.input_ids, row.pair_start) for row in call.rows]
        finally:
            self.running -= 1
        size = call.parameters.dimensions
        packed = [struct.pack(f"<{len(vector)}f", *vector) for vector in vectors]
        return PooledAnswer(
            [vector[: 4 * size] if size else vector for vector in packed],
            AnswerFacts({"prefill": 2.0}, {"x-pilotlight-lease": "path=warm"}),
        )

    async def close(self) -> None:
        return

    def _vector(self, ids: list[int], pair_start: int | None) -> list[float]:
        if self.task == "embed":
            return counts(ids)
        assert pair_start is not None
        return [float(len(set(ids[:pair_start]) & set(ids[pair_start:]) - {CLS, SEP}))]


class PoolingApp(TextApp):
    def __init__(self, task: PoolingTask, error: PilotlightError | None = None, *, lower_case: bool = False) -> None:
        self.pooling = FakePoolingSource(task, error)
        super().__init__(self.pooling, loaded=False)  # type: ignore[arg-type]  # a source all the same
        self.model._model.set_loaded(pooling_text(task, lower_case=lower_case))

    def rows(self) -> list[list[int]]:
        return [row.input_ids for call in self.pooling.calls for row in call.rows]
