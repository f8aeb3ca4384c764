"""What the routes share: the model's names, its tokenizer and template once they are loaded, and prompts to text.

Responsible for saying "not ready yet" until they are, for running the `tokenizers` library, where it is in this
process, so that it does not hold up the event loop, and for refusing a prompt that cannot fit before time is spent on
it. Readiness never asks the source of tokens: scaled to zero, it is woken by the first request and not by a probe. It
must not know how a request or an answer is written (OpenAI, V2).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from tokenizers import Tokenizer

from pilotlight_protocol.errors import ContextLengthExceeded, InvalidInput, ModelNotFound, Unavailable
from pilotlight_protocol.generation import GenerationParameters
from pilotlight_protocol.pooling import not_generating
from pilotlight_text.detokenization.detokenizer import Vocabulary, vocabulary_of
from pilotlight_text.detokenization.text_stream import ChoiceText, Completion, TextStream
from pilotlight_text.detokenization.token_texts import LibraryTexts, TokenTexts
from pilotlight_text.resumption.current_record import token_stream
from pilotlight_text.templates.chat_template import ChatTemplate
from pilotlight_text.token_level import bad_words_of, token_level
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenSource
from pilotlight_text.tokenization.text_encoder import JobEncoder, TextEncoder, tokenizer_fails
from pilotlight_text.tokenization.tokenizer_jobs import Job, NoRoom, done
from pilotlight_text.tokenization.truncation import Truncation
from pilotlight_wire.handlers import RequestContext

if TYPE_CHECKING:
    from pilotlight_text.answer_parts.answer_format import AnswerFormat
    from pilotlight_text.pooling_source import PooledAnswer, PoolingCall
    from pilotlight_text.tokenization.pooling_traits import PoolingTraits

_log = logging.getLogger("pilotlight.text")

_T = TypeVar("_T")

VERSION = "1"
CONCURRENT_PROMPTS = 32
"""How many prompts of one request are with the source at a time."""

INLINE_CHARS = 4096
"""Longer texts are tokenized in a thread: at this length encoding takes about 1 ms, a hop to a thread 0.1–0.2 ms."""

CHARS_PER_TOKEN_LIMIT = 64
"""Text with more characters per token of context than this is refused unread. English has about 4; the longest tokens
of common vocabularies are runs of spaces (up to 128), which nobody sends alone."""

DEFAULT_CHARS_LIMIT = 4_000_000
"""Limit in characters where the context length is unknown."""


class TextCodec:
    """`max_model_len` is the context length in tokens, or None where only the predictor knows it."""

    def __init__(self, encoder: TextEncoder, texts: TokenTexts, *, max_model_len: int | None) -> None:
        self.encoder = encoder
        self._texts = texts
        self.vocabulary: Vocabulary = vocabulary_of(texts)
        self.max_model_len = max_model_len
        self.max_chars = CHARS_PER_TOKEN_LIMIT * max_model_len if max_model_len else DEFAULT_CHARS_LIMIT

    async def encode(
        self, text: str, *, add_special_tokens: bool, param: str = "prompt", truncation: Truncation | None = None
    ) -> list[int]:
        """Token ids of `text`: int[seq]. Raises InvalidInput naming `param` when the text is empty or too long."""
        if truncation is None:
            self.check_chars(len(text), param)
        ids = await self.tokens_of(text, add_special_tokens=add_special_tokens, param=param)
        return self.prompt_of(ids, param, truncation)

    def prompt_of(self, ids: Sequence[int], param: str, truncation: Truncation | None = None) -> list[int]:
        """`ids`, cut where the request says so. Raises InvalidInput naming `param` when they are none or too many."""
        kept = list(ids) if truncation is None else truncation.of(ids, self.max_model_len)
        self.check_ids(kept, param)
        return kept

    async def offsets_of(self, text: str, add_special_tokens: bool) -> list[int]:
        """Where in `text` each of its tokens begins, in characters: int[seq]. For a text that `encode` has taken."""
        return await self.encoder.starts(text, add_special_tokens)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The text of each token that detokenization skips, and its id."""
        return self._texts.special

    async def tokens_of(self, text: str, *, add_special_tokens: bool, param: str) -> list[int]:
        """Token ids of any text, also of one that is no prompt for this model. Raises InvalidInput over the limit."""
        if len(text) > max(self.max_chars, DEFAULT_CHARS_LIMIT):
            self.check_chars(len(text), param)
        return await self.encoder.ids(text, add_special_tokens)

    async def text_of(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        if len(ids) <= INLINE_CHARS:
            return self._decode(ids)
        return await asyncio.to_thread(self._decode, ids)

    def token_text(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it; None where it has none of that id."""
        return self._texts.text(token_id)

    def check_chars(self, chars: int, param: str) -> None:
        if chars > self.max_chars:
            fits = ""
            if self.max_model_len is not None:
                fits = f"This model's maximum context length is {self.max_model_len} tokens. However, "
            raise ContextLengthExceeded(
                f"{fits}'{param}' has {chars} characters, and at most {self.max_chars} are taken. Send a shorter one",
                param=param,
            )

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        if not ids:
            raise InvalidInput(f"'{param}' is empty: send at least one token", param=param)
        if self.max_model_len is not None and len(ids) >= self.max_model_len:
            raise ContextLengthExceeded.of(self.max_model_len, len(ids), None, param)

    def check_room(self, ids: Sequence[int], max_tokens: int | None) -> None:
        """What the predictor would say, too, but not before it is awake. Raises ContextLengthExceeded."""
        context = self.max_model_len
        if context is not None and max_tokens is not None and len(ids) + max_tokens > context:
            raise ContextLengthExceeded.of(context, len(ids), max_tokens, "max_tokens")

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        detokenizer = self.vocabulary.detokenizer(skip_special_tokens=skip_special_tokens)
        return detokenizer.push(ids) + detokenizer.finish() if ids else ""

    def close(self) -> None:
        self.encoder.close()

    def _decode(self, ids: Sequence[int]) -> str:
        tokens = map(self._texts.text, ids)
        return self._texts.joined([token for token in tokens if token is not None])


class LibraryEncoder(JobEncoder):
    """With the tokenizer in this process, for one that serves one tenant; in threads where a text is long."""

    def __init__(self, tokenizer: Tokenizer, threads: int = 4) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="tokenizer")

    async def ids(self, text: str, special: bool) -> list[int]:
        if len(text) <= INLINE_CHARS:
            return _guarded(_ids, len(text), self._tokenizer, text, special)
        return await self._in_thread(_ids, len(text), self._tokenizer, text, special)

    async def done(self, job: Job) -> Any:
        if job.chars <= INLINE_CHARS:
            return _guarded(done, job.chars, self._tokenizer, job)
        return await self._in_thread(done, job.chars, self._tokenizer, job)

    async def _in_thread(self, work: Callable[..., _T], chars: int, *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, _guarded, work, chars, *arguments)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _guarded(work: Callable[..., _T], chars: int, *arguments: Any) -> _T:
    try:
        return work(*arguments)
    except NoRoom:
        raise
    except BaseException as error:  # what panics in the library is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        _log.warning("the tokenizers library on a text of %d characters: %s", chars, str(error)[:500])
        raise tokenizer_fails() from error


def _ids(tokenizer: Tokenizer, text: str, special: bool) -> list[int]:
    # The batch call skips the offsets that nobody reads here: 20 % faster for one text, too.
    ids: list[int] = tokenizer.encode_batch_fast([text], add_special_tokens=special)[0].ids
    return ids


def library_codec(tokenizer: Tokenizer, *, max_model_len: int | None) -> TextCodec:
    """With the tokenizer in this process."""
    return TextCodec(LibraryEncoder(tokenizer), LibraryTexts(tokenizer), max_model_len=max_model_len)


@dataclass(frozen=True, slots=True)
class LoadedText:
    """The parts that come from the model's files. `loaded_at_s`: Unix seconds, `created` in OpenAI's model list.
    `answer_format`: how it writes reasoning and calls, None where only words for the user are known of it.
    `sampling_defaults`: of the model's generation_config.json, in the names of sampling parameters; a predictor knows
    them itself. `pooling`: what a pooling model does instead of generating. `end`: a token that ends what its adapter
    says and is none to the base, None where the engine knows every end."""

    codec: TextCodec
    template: ChatTemplate
    loaded_at_s: int
    answer_format: AnswerFormat | None = None
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)
    pooling: PoolingTraits | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One prompt, `prompt_ids`: int[seq]; stop strings and bad words in `parameters` are honoured here.

    `return_token_ids`: the pieces carry the ids they were made of.
    """

    model_name: str
    request_id: str
    prompt_ids: list[int]
    parameters: GenerationParameters
    metadata: Mapping[str, str] = field(default_factory=dict)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    return_token_ids: bool = False


class TextModel:
    """`names`: the model's, then those of the adapters the source serves."""

    def __init__(self, names: Sequence[str], source: TokenSource) -> None:
        self.names = tuple(names)
        self._source = source
        self._loaded: LoadedText | None = None

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

    def why_not_loaded(self) -> Unavailable:
        return Unavailable(f"the tokenizer of model '{self.name}' is not loaded; try again", retry_after_s=1)

    def set_loaded(self, loaded: LoadedText | None) -> None:
        self._loaded = loaded

    def require(self, model_name: str) -> None:
        """Raises ModelNotFound unless that name is served here, InvalidInput where it is no model that generates."""
        self.require_name(model_name)
        self._require_generation()

    def _require_generation(self) -> None:
        pooling = None if self._loaded is None else self._loaded.pooling
        if pooling is not None:
            raise not_generating(pooling.task)

    def require_name(self, model_name: str) -> None:
        """Raises ModelNotFound unless that name is served here."""
        if model_name not in self.names:
            raise ModelNotFound(
                f"there is no model '{model_name}' here; this server has {', '.join(self.names)}", param="model"
            )

    async def stream(self, request: TextRequest) -> TextStream:
        """Returns when the answer has started. Raises what the source does."""
        return await self._start(request, whole=False)

    async def complete(self, request: TextRequest) -> Completion:
        """The whole text. With stop strings it is streamed inside, so that a match ends the generation."""
        text = await self._start(request, whole=True)
        return await text.collect()

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        """A vector per row. Raises what the source does."""
        return await self._source.pool(call)

    async def complete_all(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """Completions in the order of `requests`, bounded in number at a time; the first failure ends all."""
        if len(requests) == 1:
            return [await self.complete(requests[0])]
        places = asyncio.Semaphore(CONCURRENT_PROMPTS)

        async def one(request: TextRequest) -> Completion:
            async with places:
                return await self.complete(request)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(request)) for request in requests]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _start(self, request: TextRequest, *, whole: bool) -> TextStream:
        self._require_generation()
        loaded, include_stop = self.loaded(), request.include_stop_str_in_output
        codec = loaded.codec
        codec.check_room(request.prompt_ids, request.parameters.max_tokens)
        words = bad_words_of(request.parameters)
        level = token_level(
            request.parameters,
            include_stop=include_stop,
            hidden_tokens=lambda: codec.special_tokens if request.skip_special_tokens else {},
            encoded=dict(zip(words, await codec.encoder.ids_of_each(words), strict=True)) if words else {},
            end=loaded.end,
        )
        tokens = await token_stream(
            self._source,
            TokenRequest(
                request.model_name,
                request.request_id,
                request.prompt_ids,
                level.parameters,
                request.metadata,
                whole and level.stops is None,
            ),
        )
        choices = [
            ChoiceText(
                index,
                codec.vocabulary.detokenizer(request.prompt_ids, skip_special_tokens=request.skip_special_tokens),
                level.stops.scanner() if level.stops else None,
                min_tokens=level.parameters.min_tokens,
                show_stop_token=include_stop,
                stop_tokens=level.stop_tokens,
                keep_ids=request.return_token_ids,
            )
            for index in range(request.parameters.n)
        ]
        return TextStream(tokens, choices, len(request.prompt_ids), copies=level.copies)


@contextmanager
def timed(context: RequestContext, phase: str) -> Iterator[None]:
    """Adds the milliseconds spent inside to the request's `Server-Timing`."""
    started_s = time.perf_counter()
    try:
        yield
    finally:
        context.server_timing[phase] = (time.perf_counter() - started_s) * 1000


def add_facts(context: RequestContext, facts: Iterable[AnswerFacts]) -> None:
    """Pass phases and metadata on; of several answers the slowest of each phase counts."""
    for answer in facts:
        context.response_headers.update(answer.metadata)
        for phase, milliseconds in answer.phases_ms.items():
            context.server_timing[phase] = max(milliseconds, context.server_timing.get(phase, 0.0))
