"""Request parameters that Triton's clients send as options of a call, not as parameters of the model. Pure.

`timeout` is microseconds of this request, 0 for none. `sequence_id`, `sequence_start` and `sequence_end` mark the
requests of a stateful model; text has no state between requests, so they are only given back, as Triton does for a
stateless model. `priority` stays with the model: both Triton and vLLM serve lower values first, with 0 as the default.
Source: Triton's `extension_parameters` and `extension_sequence`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from pilotlight_protocol.errors import DeadlineExceeded, InvalidInput

_TIMEOUT = "timeout"
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_EMPTY_FINAL = "triton_enable_empty_final_response"
_LONGEST_TIMEOUT_US = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """`sequence`: what the answer gives back. `wants_empty_final`: a stream ends with an empty response."""

    timeout_s: float | None = None
    sequence: dict[str, Any] = field(default_factory=dict)
    wants_empty_final: bool = False

    @contextlib.asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Raises DeadlineExceeded inside when the request's own time is over."""
        try:
            async with asyncio.timeout(self.timeout_s) as timeout:
                yield
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(
                f"the request took longer than the {self.timeout_s:g} s that its parameter 'timeout' (microseconds) "
                "gives it; its work was ended"
            ) from error


_NONE = TritonOptions()


def take_options(parameters: MutableMapping[str, Any]) -> TritonOptions:
    """Take the options out of a request's parameters. Raises InvalidInput for a value of the wrong kind."""
    if not parameters:
        return _NONE
    timeout_us = parameters.pop(_TIMEOUT, None)
    if timeout_us is not None and (type(timeout_us) is not int or not 0 <= timeout_us <= _LONGEST_TIMEOUT_US):
        raise InvalidInput("parameter 'timeout' must be a whole number of microseconds, 0 for none", param=_TIMEOUT)
    sequence = {name: parameters.pop(name) for name in _SEQUENCE if name in parameters}
    for name, value in sequence.items():
        if name == "sequence_id" and type(value) not in (int, str):
            raise InvalidInput("parameter 'sequence_id' must be a whole number or a text", param=name)
        if name != "sequence_id" and type(value) is not bool:
            raise InvalidInput(f"parameter '{name}' must be true or false", param=name)
    return TritonOptions(
        timeout_s=timeout_us / 1e6 if timeout_us else None,
        sequence=sequence,
        wants_empty_final=parameters.pop(_EMPTY_FINAL, False) is True,
    )
