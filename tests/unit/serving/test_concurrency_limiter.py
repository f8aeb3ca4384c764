"""What the limiter tells requests that it refuses."""

import pytest

from pilotlight_protocol.errors import Unavailable
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter


def test_a_server_that_ends_sends_clients_to_another_replica() -> None:
    limiter = ConcurrencyLimiter(1)
    limiter.start_draining()
    limiter.enter()
    limiter.leave()
    limiter.refusing = True
    with pytest.raises(Unavailable, match="another replica") as refused:
        limiter.enter()
    assert refused.value.retry_after_s == 1


def test_a_server_that_can_never_serve_says_why() -> None:
    limiter = ConcurrencyLimiter(1)
    limiter.why_ending = "cpu:0 cannot run fp8"
    limiter.refusing = True
    with pytest.raises(Unavailable, match="cannot run fp8") as refused:
        limiter.enter()
    assert refused.value.retry_after_s == 60


def test_a_full_server_counts_what_is_in_flight() -> None:
    limiter = ConcurrencyLimiter(1)
    limiter.enter()
    with pytest.raises(Unavailable, match="1 requests are in flight"):
        limiter.enter()
    limiter.leave()
    limiter.enter()
    assert limiter.in_flight == 1
