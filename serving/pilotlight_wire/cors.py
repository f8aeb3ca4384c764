"""Cross-origin requests of browsers: which origins may call, and the headers that say so. Pure.

Source: the Fetch standard, section 3.3. vLLM's own server allows every origin, without credentials; so does the
default here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ANY_ORIGIN = "*"
_METHODS = "GET, HEAD, POST, PATCH, DELETE, OPTIONS"
_EXPOSED = "x-request-id, server-timing, retry-after, x-pilotlight-param"
_PREFLIGHT_LASTS_S = 600


@dataclass(frozen=True, slots=True)
class CorsPolicy:
    """`origins`: those that may call; `*` stands for all, an empty tuple for none (no header is sent then)."""

    origins: tuple[str, ...] = (ANY_ORIGIN,)

    def answer_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """What an answer to a request with these headers (lower-case names) carries; nothing for one without origin."""
        origin = headers.get("origin")
        if origin is None or not self._allows(origin):
            return {}
        allowed = {"access-control-allow-origin": ANY_ORIGIN if ANY_ORIGIN in self.origins else origin}
        if ANY_ORIGIN not in self.origins:
            allowed["vary"] = "Origin"
        return {**allowed, "access-control-expose-headers": _EXPOSED}

    def preflight_headers(self, method: str, headers: Mapping[str, str]) -> dict[str, str] | None:
        """What the answer to a preflight carries beside `answer_headers`; None when this is none, or its origin may not
        call."""
        origin = headers.get("origin")
        if method != "OPTIONS" or origin is None or "access-control-request-method" not in headers:
            return None
        if not self._allows(origin):
            return None
        asked = headers.get("access-control-request-headers", "")
        return {
            "access-control-allow-methods": _METHODS,
            "access-control-allow-headers": asked if asked and asked.isprintable() else ANY_ORIGIN,
            "access-control-max-age": str(_PREFLIGHT_LASTS_S),
        }

    def _allows(self, origin: str) -> bool:
        return ANY_ORIGIN in self.origins or origin in self.origins


EVERY_ORIGIN = CorsPolicy()


def allowed_origins(text: str) -> CorsPolicy:
    """`*`, nothing, or origins with commas between, as an operator writes them. Raises ValueError."""
    origins = tuple(item.strip().rstrip("/") for item in text.split(",") if item.strip())
    for origin in origins:
        if origin not in (ANY_ORIGIN, "null") and ("://" not in origin or "/" in origin.partition("://")[2]):
            raise ValueError(f"an origin is SCHEME://HOST[:PORT] or *, not '{origin}'")
    return CorsPolicy(origins)
