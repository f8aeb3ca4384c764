"""Where the tokens of a request are counted, whoever makes them: the usage of the request that runs now."""

from __future__ import annotations

from contextvars import ContextVar

from pilotlight_gateway.metrics import unbilled
from pilotlight_gateway.request_steps import GatewayRequest, TokenUsage

USAGE: ContextVar[TokenUsage] = ContextVar("usage")
"""Set by the pipeline in the task of the request, and so in those that it starts."""


def usage_now() -> TokenUsage:
    return USAGE.get(_NOBODYS)


def count_anew(request: GatewayRequest) -> None:
    """What is counted from now on is all that the request is billed for."""
    request.usage = TokenUsage()
    USAGE.set(request.usage)


def count_unbilled(usage: TokenUsage) -> None:
    """Of an answer that nobody got."""
    if usage.total:
        unbilled("prompt").inc(usage.prompt_tokens)
        unbilled("output").inc(usage.output_tokens)


_NOBODYS = TokenUsage()
