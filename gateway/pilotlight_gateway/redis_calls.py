"""The seam to Redis: what is called there, and what is known of it. No I/O is done here; `redis_link` does it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pilotlight_protocol.errors import Unavailable


class RedisAway(Unavailable):
    """It may have done what it was asked, or not."""


@dataclass(frozen=True, slots=True)
class Script:
    """`sha`: as Redis calls it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


@dataclass(frozen=True, slots=True)
class ScriptCall:
    script: Script
    keys: Sequence[str]
    arguments: Sequence[str | bytes | int | float]

    @property
    def words(self) -> tuple[Any, ...]:
        return "EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.arguments


class RedisCalls(Protocol):
    """What is called may be sent twice."""

    @property
    def there(self) -> bool: ...

    def on_return(self, returned: Callable[[], None]) -> None:
        """`returned` is called each time when it answers again."""
        ...

    async def call(self, call: ScriptCall) -> Any:
        """Raises RedisAway."""
        ...

    async def call_all(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """In one round trip, in their order. Raises RedisAway, also where only some of them failed."""
        ...
