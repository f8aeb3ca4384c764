"""The responses that may be read or continued later: a bounded number of them, of bounded size, for a bounded time.

They live in this process: a request that another replica answered is not found here, and a restart forgets all. Whose a
response is and which model made it is part of its key: nobody finds another's. Pure: the time is an argument.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight_protocol.errors import InvalidInput, PilotlightError

MAX_RESPONSES = 4096
MAX_BYTES = 32 * 1024 * 1024
MAX_AGE_S = 24 * 3600.0
"""Since it was last used; OpenAI keeps them for 30 days."""

MAX_CHAIN = 512
"""How many responses one may be the continuation of."""

MAX_CHAIN_BYTES = 8 * 1024 * 1024
"""Of their items: a request of a few bytes must not cost what a body of 32 MiB would."""


class ResponseNotFound(PilotlightError):
    http_status, grpc_code, openai_type = 404, 5, "invalid_request_error"


class PreviousResponseNotFound(ResponseNotFound):
    code = "previous_response_not_found"


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """`items`: the input items and the output items as JSON; `response`: the response object as JSON."""

    tenant: str
    model: str
    response_id: str
    previous_id: str | None
    input_items: bytes
    output_items: bytes
    response: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.input_items) + len(self.output_items) + len(self.response) + 512


class StoredResponses:
    def __init__(
        self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES, max_age_s: float = MAX_AGE_S
    ) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._stored: OrderedDict[str, tuple[float, StoredResponse]] = OrderedDict()
        self._bytes: Counter[str] = Counter()

    def put(self, response: StoredResponse, now_s: float) -> None:
        """One that would not fit alone is not kept; else the tenant that holds most makes room, with what it has not
        used for longest."""
        self._drop(response.response_id)
        if response.size_bytes > self._max_bytes:
            return
        self._stored[response.response_id] = now_s, response
        self._bytes[response.tenant] += response.size_bytes
        self._forget_old(now_s)
        while self._bytes.total() > self._max_bytes or len(self._stored) > self._max_responses:
            largest = max(self._bytes, key=self._bytes.__getitem__)
            self._drop(next(name for name, (_, stored) in self._stored.items() if stored.tenant == largest))

    def get(self, response_id: str, tenant: str, now_s: float) -> StoredResponse:
        """Raises ResponseNotFound."""
        found = self._find(response_id, tenant, now_s)
        if found is None:
            raise not_found(response_id)
        return found

    def delete(self, response_id: str, tenant: str, now_s: float) -> None:
        """Raises ResponseNotFound."""
        self._drop(self.get(response_id, tenant, now_s).response_id)

    def history(self, previous_id: str, tenant: str, model: str, now_s: float) -> bytes:
        """As `ResponseStore.history`."""
        chain: list[StoredResponse] = []
        wanted: str | None = previous_id
        while wanted is not None:
            found = self._find(wanted, tenant, now_s)
            if found is None or found.model != model or len(chain) == MAX_CHAIN:
                raise previous_not_found(wanted)
            chain.append(found)
            wanted = found.previous_id
        return items_of(chain)

    def _find(self, response_id: str, tenant: str, now_s: float) -> StoredResponse | None:
        self._forget_old(now_s)
        found = self._stored.get(response_id)
        if found is None or found[1].tenant != tenant:
            return None
        self._stored[response_id] = now_s, found[1]
        self._stored.move_to_end(response_id)
        return found[1]

    def _forget_old(self, now_s: float) -> None:
        """They stand in the order of their last use."""
        while self._stored:
            response_id, (used_s, _) = next(iter(self._stored.items()))
            if used_s > now_s - self._max_age_s:
                return
            self._drop(response_id)

    def _drop(self, response_id: str) -> None:
        dropped = self._stored.pop(response_id, None)
        if dropped is not None:
            _, response = dropped
            self._bytes[response.tenant] -= response.size_bytes
            if not self._bytes[response.tenant]:
                del self._bytes[response.tenant]


def items_of(chain: Sequence[StoredResponse]) -> bytes:
    """Of responses, the latest first: their items as a JSON list, oldest first. Raises InvalidInput for too many."""
    lists = [items for response in reversed(chain) for items in (response.input_items, response.output_items)]
    total = sum(map(len, lists))
    if total > MAX_CHAIN_BYTES:
        raise InvalidInput(
            f"what 'previous_response_id' continues has {total} bytes of items, and {MAX_CHAIN_BYTES} are the most: "
            "send the items that are still needed in 'input', without 'previous_response_id'",
            param="previous_response_id",
        )
    within = (items.strip()[1:-1].strip() for items in lists)
    return b"[%b]" % b",".join(items for items in within if items)


def not_found(response_id: str) -> ResponseNotFound:
    return ResponseNotFound(f"Response with id '{response_id[:80]}' not found.", param="response_id")


def previous_not_found(response_id: str) -> PreviousResponseNotFound:
    return PreviousResponseNotFound(
        f"Previous response with id '{response_id[:80]}' not found.", param="previous_response_id"
    )
