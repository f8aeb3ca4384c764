"""How many tokens the prompts of a route really have for each one that was estimated: a moving average. Pure."""

from __future__ import annotations

from collections import OrderedDict

MOST_ROUTES = 4096
_WEIGHT = 0.1
_LEAST, _MOST = 0.25, 4.0
"""What a tokenizer can be off by; beyond it is a request whose text was not where one looked."""


class PromptLengths:
    def __init__(self) -> None:
        self._ratios: OrderedDict[str, float] = OrderedDict()

    def ratio(self, route: str) -> float:
        return self._ratios.get(route, 1.0)

    def observe(self, route: str, estimated: int, prompt_tokens: int) -> None:
        """`prompt_tokens`: 0 where nobody counted."""
        if estimated <= 0 or prompt_tokens <= 0:
            return
        seen = min(_MOST, max(_LEAST, prompt_tokens / estimated))
        self._ratios[route] = self.ratio(route) + _WEIGHT * (seen - self.ratio(route))
        self._ratios.move_to_end(route)
        if len(self._ratios) > MOST_ROUTES:
            self._ratios.popitem(last=False)
