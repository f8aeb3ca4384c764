"""Whether and how a generation goes on with another engine after its own was lost. Pure.

    nothing was delivered            the same request again, whatever its parameters
    greedy, or sampled without seed  each unfinished choice goes on from prompt + delivered ids: greedy gives the same
                                     tokens as if nothing had happened, a sample stays a sample of the same distribution
    sampled with a seed              cannot go on: the generator's state died with the engine
    presence, frequency penalty,     cannot go on: they look at the output, and what was delivered is now in the prompt
    repetition detection, a bad
    word of several tokens

`repetition_penalty` looks at prompt and output alike (vLLM, `apply_repetition_penalties`), stop ids and minimum length
at what is still to come, biases, allowed ids and bad words of one token at nothing: none of them stands in the way. A
constraint is told how much of the prompt is output (`output_tokens`) and goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from pilotlight_protocol.engine_frames import GenerateRequest
from pilotlight_protocol.generation import GenerationParameters, TokenDelta


@dataclass(frozen=True, slots=True)
class ResumeLimits:
    """`deadline_s`: how long one loss may keep a client waiting for the next token's engine. 0 resumes: never."""

    max_resumes: int = 3
    deadline_s: float = 60.0


@dataclass(slots=True)
class Delivered:
    """What the client has of one choice."""

    token_ids: list[int] = field(default_factory=list)
    finished: bool = False
    opened: bool = False
    """The delta with the prompt's size has been delivered (choice 0 only)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A request for the rest; `choice` is the one choice it continues, None when it is the whole request again."""

    request: GenerateRequest
    choice: int | None


@dataclass(frozen=True, slots=True)
class CannotResume:
    reason: str


def rest_of(
    request: GenerateRequest, delivered: Sequence[Delivered], default_max_tokens: int | None, resumes: int
) -> list[Part] | CannotResume:
    """What to ask of the next engine.

    `default_max_tokens`: the limit that holds for a request without one (EngineInfo). `resumes`: how many times this
    request has been resumed, this time included; it keeps the ids of its requests apart.
    """
    if not any(choice.token_ids or choice.finished for choice in delivered):
        return [Part(msgspec.structs.replace(request, request_id=f"{request.request_id}~{resumes}"), None)]
    obstacle = _obstacle(request.parameters)
    if obstacle is not None:
        done = sum(len(choice.token_ids) for choice in delivered)
        return CannotResume(f"after {done} tokens, and a request with {obstacle} cannot go on elsewhere; send it again")
    return [
        Part(_continued(request, choice, index, default_max_tokens, resumes), index)
        for index, choice in enumerate(delivered)
        if not choice.finished
    ]


def as_original(delta: TokenDelta, part: Part, request: GenerateRequest, opened: bool) -> TokenDelta:
    """The delta of a part as one of the request that the client made. `opened`: see `Delivered`."""
    if part.choice is None:
        return delta
    is_opening = part.choice == 0 and not opened and delta.prompt_tokens >= 0
    return TokenDelta(
        part.choice,
        delta.token_ids,
        delta.finish_reason,
        delta.stop_reason,
        delta.logprobs,
        len(request.prompt_token_ids) if is_opening else -1,
        delta.cached_tokens if is_opening else -1,
        delta.prompt_logprobs if is_opening else None,
    )


def _obstacle(parameters: GenerationParameters) -> str | None:
    if parameters.seed is not None and not parameters.is_greedy:
        return "a seed"
    if parameters.presence_penalty or parameters.frequency_penalty:
        return "a presence or frequency penalty"
    if parameters.repetition_detection is not None:
        return "repetition detection"
    if any(len(word) > 1 for word in parameters.bad_words_token_ids):
        return "a bad word of several tokens"
    return None


def _continued(
    request: GenerateRequest, choice: Delivered, index: int, default_max_tokens: int | None, resumes: int
) -> GenerateRequest:
    asked, done = request.parameters, len(choice.token_ids)
    limit = asked.max_tokens if asked.max_tokens is not None else default_max_tokens
    parameters = msgspec.structs.replace(
        asked,
        n=1,
        max_tokens=None if limit is None else limit - done,
        min_tokens=max(0, asked.min_tokens - done),
        prompt_logprobs=None if choice.opened or index else asked.prompt_logprobs,
    )
    return msgspec.structs.replace(
        request,
        request_id=f"{request.request_id}~{resumes}.{index}",
        prompt_token_ids=request.prompt_token_ids + choice.token_ids,
        parameters=parameters,
        output_tokens=request.output_tokens + done,
    )
