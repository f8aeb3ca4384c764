"""POST …/derender: the tokens that a server of tokens made, to the answer of the API, whole or a chunk at a time.

The answer is read as any other: only its tokens have been made already (`made_tokens`). A stream's state is with the
client; each chunk reads the choice's tokens again from the first, so that no byte and no mark is cut in two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters, TokenEvent
from pilotlight_protocol.tokens_api import GeneratedTokens, TokensChoice
from pilotlight_text.conversation.conversation import Conversation
from pilotlight_text.conversation.conversations import Conversations
from pilotlight_text.detokenization.logprob_text import CompletionLogprobs
from pilotlight_text.openai_api.chat import ChatCompletions, conversation_of
from pilotlight_text.openai_api.completions import Completions
from pilotlight_text.openai_api.requests import (
    ChatRequest,
    CompletionRequest,
    read_chat_request,
    read_completion_request,
)
from pilotlight_text.openai_api.sampling import completion_parameters
from pilotlight_text.openai_api.shown_choices import Prompt, ShownChoices
from pilotlight_text.split_api.chunk_answers import chat_chunk, completion_chunk
from pilotlight_text.split_api.made_tokens import MadeTokens, event_of
from pilotlight_text.split_api.requests import (
    DerenderCompletion,
    StreamState,
    count_of,
    is_given,
    prompt_of,
    read_derender_chat,
    read_derender_completion,
)
from pilotlight_text.text_model import LoadedText, TextModel, TextRequest
from pilotlight_wire.handlers import Reply, RequestContext

_PROMPT_END_TOKENS = 128


class _Answered(Conversations):
    """Conversations whose prompt was rendered before: its tokens are known, and their end as text."""

    def __init__(self, model: TextModel, prompt_ids: list[int]) -> None:
        super().__init__(model)
        self._prompt_ids = prompt_ids
        self._codec = model.loaded().codec

    async def _prompt(self, conversation: Conversation, context: RequestContext) -> tuple[str, list[int]]:
        return await self._codec.text_of(self._prompt_ids[-_PROMPT_END_TOKENS:]), self._prompt_ids


async def derender_chat(model: TextModel, context: RequestContext, created: int) -> Reply:
    request = read_derender_chat(context.body)
    name, loaded = request.model or model.name, model.loaded()
    model.require(name)
    if not is_given(request.chat_request) and loaded.answer_format is not None:
        raise InvalidInput("'chat_request' is missing: this model's answers are read with it", param="chat_request")
    asked = _chat(request.chat_request, name)
    conversation = conversation_of(asked)
    answer = request.generate_chunk if request.stream else request.generate_response
    assert answer is not None
    prompt = prompt_of(request.prompt_token_ids, answer.prompt_token_ids)
    if request.prompt_token_ids is None and request.stream and loaded.answer_format is not None:
        raise InvalidInput("'prompt_token_ids' is missing: it tells where the answer begins", param="prompt_token_ids")
    counted = count_of(request.prompt_tokens, prompt)
    if not request.stream:
        made = {context.request_id: _whole(answer.choices, counted, loaded)}
        replayed = _replayed(model, made)
        conversation = _with_choices(conversation, len(answer.choices))
        chat = ChatCompletions(replayed, lambda: created, conversations=_Answered(replayed, prompt))
        return await chat.whole(asked, conversation, answer.request_id, created, context)
    state = request.stream_state or StreamState()
    events = _pieces(answer.choices, state, counted, loaded, len(prompt))
    replayed = _replayed(model, {context.request_id: events})
    told = await _Answered(replayed, prompt).start(_with_choices(conversation, 1), context)
    deltas = [await told.deltas() for _ in events]
    new = deltas[-1] if deltas else []
    return chat_chunk(answer, new, state, name, created, counted, loaded.codec.vocabulary)


async def derender_completion(model: TextModel, context: RequestContext, created: int) -> Reply:
    request = read_derender_completion(context.body)
    name = request.model or model.name
    model.require(name)
    asked = _completion(request.completion_request, name)
    if request.generate_chunk is not None:
        return await _completion_chunk(model, request, request.generate_chunk, asked, context, created)
    return await _completions(model, request, request.generate_responses or [], asked, context, created)


async def _completion_chunk(
    model: TextModel,
    request: DerenderCompletion,
    answer: GeneratedTokens,
    asked: CompletionRequest,
    context: RequestContext,
    created: int,
) -> Reply:
    loaded, state = model.loaded(), request.stream_state or StreamState()
    prompt = prompt_of(request.prompt_token_ids, answer.prompt_token_ids)
    counted = count_of(request.prompt_tokens, prompt)
    events = _pieces(answer.choices, state, counted, loaded, len(prompt))
    parameters = _parameters(completion_parameters(asked), 1)
    replayed = _replayed(model, {context.request_id: events})
    text = await replayed.stream(_text_request(asked, context.request_id, prompt, parameters))
    pieces = [await text.pieces() for _ in events]
    new = pieces[-1] if pieces else []
    written = CompletionLogprobs(loaded.codec.vocabulary, prompt, int(asked.logprobs or 0))
    return completion_chunk(answer, new, state, request.model or model.name, created, counted, written)


async def _completions(
    model: TextModel,
    request: DerenderCompletion,
    answers: Sequence[GeneratedTokens],
    asked: CompletionRequest,
    context: RequestContext,
    created: int,
) -> Reply:
    loaded, choices = model.loaded(), len(answers[0].choices)
    if any(len(answer.choices) != choices for answer in answers):
        raise InvalidInput("all of 'generate_responses' must have as many choices", param="generate_responses")
    given = request.prompt_token_ids or [None] * len(answers)
    prompts = [prompt_of(ids, answer.prompt_token_ids) for ids, answer in zip(given, answers, strict=True)]
    told = request.prompt_tokens or [None] * len(answers)
    counts = [count_of(count, prompt) for count, prompt in zip(told, prompts, strict=True)]
    parameters = _parameters(completion_parameters(asked), choices)
    requests = [
        _text_request(asked, f"{context.request_id}-{place}", ids, parameters) for place, ids in enumerate(prompts)
    ]
    made = {
        text_request.request_id: _whole(answer.choices, counted, loaded)
        for text_request, answer, counted in zip(requests, answers, counts, strict=True)
    }
    echoed = [Prompt(loaded.codec.decode(ids) if asked.echo else "", ids) for ids in prompts]
    shown = ShownChoices(asked, echoed, choices, loaded.codec.vocabulary)
    whole = Completions(_replayed(model, made), lambda: created).whole
    return await whole(requests, shown, answers[0].request_id, created, context)


def _chat(raw: msgspec.Raw, name: str) -> ChatRequest:
    return read_chat_request(bytes(raw))[0] if is_given(raw) else ChatRequest(model=name, messages=[])


def _completion(raw: msgspec.Raw, name: str) -> CompletionRequest:
    return read_completion_request(bytes(raw))[0] if is_given(raw) else CompletionRequest(model=name, prompt="")


def _with_choices(conversation: Conversation, choices: int) -> Conversation:
    return msgspec.structs.replace(conversation, parameters=_parameters(conversation.parameters, choices))


def _parameters(parameters: GenerationParameters, choices: int) -> GenerationParameters:
    """For as many choices as were made, none of which is to be made of another."""
    return msgspec.structs.replace(parameters, n=choices, temperature=None)


def _text_request(
    asked: CompletionRequest, request_id: str, prompt_ids: list[int], parameters: GenerationParameters
) -> TextRequest:
    return TextRequest(
        asked.model,
        request_id,
        prompt_ids,
        parameters,
        include_stop_str_in_output=bool(asked.include_stop_str_in_output),
        skip_special_tokens=asked.hides_special_tokens,
    )


def _replayed(model: TextModel, made: Mapping[str, list[list[TokenEvent]]]) -> TextModel:
    replayed = TextModel(model.names, MadeTokens(made))
    replayed.set_loaded(model.loaded())
    return replayed


def _whole(choices: Sequence[TokensChoice], counted: int, loaded: LoadedText) -> list[list[TokenEvent]]:
    for choice in choices:
        _check_tokens(choice.token_ids or [], 0, loaded)
    return [[event_of(choice, counted, ends=True) for choice in choices]]


def _pieces(
    choices: Sequence[TokensChoice], state: StreamState, counted: int, loaded: LoadedText, prompt_tokens: int
) -> list[list[TokenEvent]]:
    """What has been told, in its pieces, and what is new: a batch of one event each."""
    told = list(accumulate(state.output_chunk_lens, initial=0))
    before = [
        [TokenEvent(output_ids=state.output_token_ids[start:end], prompt_tokens=counted, cached_tokens=0)]
        for start, end in pairwise(told)
    ]
    if not choices:
        return []
    _check_tokens([*state.output_token_ids, *(choices[0].token_ids or [])], prompt_tokens, loaded)
    event = event_of(choices[0], counted, ends=False)
    return [*before, [msgspec.structs.replace(event, index=0)]]


def _check_tokens(ids: Sequence[int], prompt_tokens: int, loaded: LoadedText) -> None:
    length, codec = loaded.codec.max_model_len, loaded.codec
    if length is not None and len(ids) + prompt_tokens > length:
        raise InvalidInput(
            f"prompt and answer have {len(ids) + prompt_tokens} tokens, and this model's context {length}",
            param="token_ids",
        )
    for token in ids:
        if codec.token_text(token) is None:
            raise InvalidInput(f"{token} is no token of this model's tokenizer", param="token_ids")
