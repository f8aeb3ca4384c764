"""Where the tokens of a request are counted, whoever makes them: the usage of the request that runs now."""

from __future__ import annotations

from contextvars import ContextVar

from pilotlight_gateway.request_steps import TokenUsage

USAGE: ContextVar[TokenUsage] = ContextVar("usage")
"""Set by the pipeline in the task of the request, and so in those that it starts."""


def usage_now() -> TokenUsage:
    return USAGE.get(_NOBODYS)


_NOBODYS = TokenUsage()
