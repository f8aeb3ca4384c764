"""What one request still asks of its replica: an estimate, less what has passed. Pure."""

from __future__ import annotations

from pilotlight_gateway.balancing.replica_load import ReplicaLoad


class CarriedRequest:
    """Counts from when it is made until `end`. `output`: as much as it may take, as far as anybody knows."""

    __slots__ = ("_ended", "_left", "_load", "_prompt", "_seen")

    def __init__(self, load: ReplicaLoad, prompt: float, output: float) -> None:
        self._load = load
        self._prompt = prompt
        self._left = prompt + output
        self._seen = 0
        self._ended = False
        load.begin(self._left)

    def passed(self, output_tokens: int) -> None:
        """In all, up to now. With the first of them the prompt is done."""
        new = output_tokens - self._seen
        if new <= 0 or self._ended:
            return
        done = min(self._left, new if self._seen else new + self._prompt)
        self._seen = output_tokens
        self._left -= done
        self._load.passed(done)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._load.end(self._left, self._prompt + self._seen)
