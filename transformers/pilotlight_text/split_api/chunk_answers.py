"""The new part of a choice as one chunk of OpenAI's, and the state to send with the next.

Pure, but for new call ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from pilotlight_protocol.tokens_api import GeneratedTokens
from pilotlight_text.answer_parts.parts import ContentText, ReasoningText, ToolCallArguments, ToolCallBegin
from pilotlight_text.conversation.choices import ChoiceDelta
from pilotlight_text.detokenization.detokenizer import Vocabulary
from pilotlight_text.detokenization.logprob_text import CompletionLogprobs, chat_logprobs
from pilotlight_text.detokenization.text_stream import Piece, Usage
from pilotlight_text.openai_api.answers import (
    CalledFunction,
    ChatChunk,
    ChatChunkChoice,
    CompletionChunk,
    CompletionChunkChoice,
    Delta,
    TokenUsage,
    ToolCallDelta,
    usage_object,
)
from pilotlight_text.openai_api.chat import random_call_id
from pilotlight_text.split_api.requests import StreamState
from pilotlight_wire.handlers import Reply

_encode = msgspec.json.Encoder().encode


class DerenderedChat(msgspec.Struct):
    chunk: ChatChunk
    stream_state: StreamState


class DerenderedCompletion(msgspec.Struct):
    chunk: CompletionChunk
    stream_state: StreamState


def chat_chunk(
    answer: GeneratedTokens,
    new: Sequence[ChoiceDelta],
    state: StreamState,
    model: str,
    created: int,
    prompt_tokens: int,
    vocabulary: Vocabulary,
) -> Reply:
    choices = []
    following = _following(answer, state)
    if answer.choices:
        following.role_sent = True
        delta = new[0] if new else ChoiceDelta(0, [], None, None, None)
        ended = delta.finish_reason is not None
        choices = [
            ChatChunkChoice(
                answer.choices[0].index,
                _delta(delta, following, begins=not state.role_sent),
                None if delta.logprobs is None else chat_logprobs(delta.logprobs, vocabulary),
                delta.finish_reason,
                delta.stop_reason if ended else msgspec.UNSET,
            )
        ]
    usage = _usage(answer, prompt_tokens)
    chunk = ChatChunk(answer.request_id, "chat.completion.chunk", created, model, choices, usage)
    return Reply(_encode(DerenderedChat(chunk, following)))


def completion_chunk(
    answer: GeneratedTokens,
    new: Sequence[Piece],
    state: StreamState,
    model: str,
    created: int,
    prompt_tokens: int,
    logprobs: CompletionLogprobs,
) -> Reply:
    choices = []
    if answer.choices:
        piece = new[0] if new else Piece(0, "")
        choices = [
            CompletionChunkChoice(
                answer.choices[0].index,
                piece.text,
                None if piece.logprobs is None else logprobs.of(piece.logprobs),
                piece.finish_reason,
                msgspec.UNSET if piece.finish_reason is None else piece.stop_reason,
            )
        ]
    usage = _usage(answer, prompt_tokens)
    chunk = CompletionChunk(answer.request_id, "text_completion", created, model, choices, usage)
    return Reply(_encode(DerenderedCompletion(chunk, _following(answer, state))))


def _following(answer: GeneratedTokens, state: StreamState) -> StreamState:
    new = (answer.choices[0].token_ids or []) if answer.choices else []
    return StreamState(
        output_token_ids=[*state.output_token_ids, *new],
        output_chunk_lens=[*state.output_chunk_lens, *([len(new)] if new else [])],
        role_sent=state.role_sent,
        tools_streamed=state.tools_streamed,
        last_tool_call_ids=[*state.last_tool_call_ids],
    )


def _delta(new: ChoiceDelta, state: StreamState, *, begins: bool) -> Delta:
    content = "".join([part.text for part in new.parts if isinstance(part, ContentText)])
    reasoning = "".join([part.text for part in new.parts if isinstance(part, ReasoningText)]) or msgspec.UNSET
    calls = [_call(part, state) for part in new.parts if isinstance(part, ToolCallBegin | ToolCallArguments)]
    role: Literal["assistant"] | msgspec.UnsetType = "assistant" if begins else msgspec.UNSET
    shown = content if content or not (calls or reasoning) else msgspec.UNSET
    return Delta(
        role=role, content=shown, reasoning_content=reasoning, reasoning=reasoning, tool_calls=calls or msgspec.UNSET
    )


def _call(part: ToolCallBegin | ToolCallArguments, state: StreamState) -> ToolCallDelta:
    if isinstance(part, ToolCallArguments):
        return ToolCallDelta(part.call, CalledFunction(part.text))
    state.tools_streamed = True
    state.last_tool_call_ids.append(random_call_id())
    return ToolCallDelta(part.call, CalledFunction("", part.name), state.last_tool_call_ids[-1], "function")


def _usage(answer: GeneratedTokens, prompt_tokens: int) -> TokenUsage | msgspec.UnsetType:
    if answer.usage is None:
        return msgspec.UNSET
    return usage_object(Usage(prompt_tokens or answer.usage.prompt_tokens, answer.usage.completion_tokens or 0, 0))
