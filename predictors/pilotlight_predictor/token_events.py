"""The server-sent events of generate_stream: the hot path, once per engine step and request. Pure.

The constant head of an event is formatted once per choice; a plain delta then costs two joins of bytes. What is rare
(log-probabilities, a finish) is encoded by msgspec. The shape is `pilotlight_protocol.generation.TokenEvent`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pilotlight_protocol.generation import TokenDelta

_encode = msgspec.json.encode
_PLAIN_END = b',"finish_reason":null}\n\n'


class EventFormatter:
    """Formats the deltas of one request."""

    def __init__(self, model_name: str, model_version: str, request_id: str, choices: int) -> None:
        head = {"model_name": model_name, "model_version": model_version, "id": request_id}
        opening = b"data: " + _encode(head)[:-1]
        self._heads = [opening + b',"index":%d,"output_ids":' % index for index in range(choices)]

    def events(self, deltas: Sequence[TokenDelta]) -> bytes:
        """One event per delta, in one chunk."""
        if len(deltas) == 1:
            return self._event(deltas[0])
        return b"".join([self._event(delta) for delta in deltas])

    def _event(self, delta: TokenDelta) -> bytes:
        ids = delta.token_ids
        tokens = b"[%d]" % ids[0] if len(ids) == 1 else b"[%s]" % ",".join(map(str, ids)).encode()
        head = self._heads[delta.index] + tokens
        if delta.finish_reason is None and delta.logprobs is None and delta.prompt_tokens < 0:
            return head + _PLAIN_END
        rest: list[bytes] = [head, b',"finish_reason":', _encode(delta.finish_reason)]
        if delta.finish_reason is not None:
            rest += [b',"stop_reason":', _encode(delta.stop_reason)]
        if delta.logprobs is not None:
            rest += [b',"logprobs":', _encode(delta.logprobs)]
        if delta.prompt_tokens >= 0:
            rest.append(b',"prompt_tokens":%d,"cached_tokens":%d' % (delta.prompt_tokens, max(0, delta.cached_tokens)))
        if delta.prompt_logprobs is not None:
            rest += [b',"prompt_logprobs":', _encode(delta.prompt_logprobs)]
        rest.append(b"}\n\n")
        return b"".join(rest)
