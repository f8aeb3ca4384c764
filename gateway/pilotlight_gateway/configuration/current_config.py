"""The configuration as it is now, and who is told of a new one. Called on the event loop only.

What is told of is frozen: a request that keeps what it was given keeps the configuration it began with.
"""

from __future__ import annotations

from collections.abc import Callable

from pilotlight_gateway.configuration.gateway_config import GatewayConfig

Apply = Callable[[GatewayConfig], None]


class CurrentConfig:
    def __init__(self, config: GatewayConfig | None = None) -> None:
        self._config = GatewayConfig() if config is None else config
        self._told: list[Apply] = []

    @property
    def config(self) -> GatewayConfig:
        return self._config

    def tell(self, apply: Apply) -> None:
        """Call it with the configuration now, and with every later one. It returns soon, and raises where it cannot
        have the new one (a PilotlightError or a ValueError): then nobody has it."""
        apply(self._config)
        self._told.append(apply)

    def replace(self, config: GatewayConfig) -> None:
        """Raises what one of those raises who are told; then all have the old one again."""
        for place, apply in enumerate(self._told):
            try:
                apply(config)
            except Exception:
                for each in self._told[: place + 1]:
                    each(self._config)
                raise
        self._config = config
