"""What is reserved for a request before anybody has tokenized it. Pure.

It is corrected when the exact count is committed; where it was too low, those that come after wait for it.
"""

from __future__ import annotations

from pilotlight_gateway.limits.limit_terms import LimitTerms
from pilotlight_protocol.errors import InvalidInput

BYTES_PER_TOKEN = 4
UNSAID_OUTPUT_TOKENS = 512
"""For a request that does not say what it takes at most."""


def estimated_prompt_tokens(body_bytes: int) -> int:
    return -(-body_bytes // BYTES_PER_TOKEN)


def reserved_tokens(terms: LimitTerms, prompt: int, most_output_tokens: int | None, choices: int) -> int:
    """Raises InvalidInput for a request that would never fit, however long it waited."""
    limits = [
        limit for limit in (terms.tokens_per_minute, terms.tokens_per_day, terms.tokens_per_month) if limit is not None
    ]
    if not limits:
        return prompt + (most_output_tokens or UNSAID_OUTPUT_TOKENS) * choices
    smallest = min(limits)
    if most_output_tokens is None:
        return min(prompt + UNSAID_OUTPUT_TOKENS * choices, smallest)
    output = most_output_tokens * choices
    if output >= smallest:
        raise InvalidInput(
            f"the answer may take {output} tokens, and your limit is {smallest}; ask for fewer", param="max_tokens"
        )
    return min(prompt + output, smallest)
