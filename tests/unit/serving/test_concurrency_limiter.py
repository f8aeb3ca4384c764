"""What the gate tells requests that it refuses."""

import pytest

from pilotlight_protocol.errors import Unavailable
from pilotlight_serving.concurrency_limiter import Gate


def test_a_server_that_ends_sends_clients_to_another_replica() -> None:
    gate = Gate(1)
    gate.start_draining()
    gate.enter()
    gate.leave()
    gate.refusing = True
    with pytest.raises(Unavailable, match="another replica") as refused:
        gate.enter()
    assert refused.value.retry_after_s == 1


def test_a_server_that_can_never_serve_says_why() -> None:
    gate = Gate(1)
    gate.why_ending = "cpu:0 cannot run fp8"
    gate.refusing = True
    with pytest.raises(Unavailable, match="cannot run fp8") as refused:
        gate.enter()
    assert refused.value.retry_after_s == 60


def test_a_full_server_counts_what_is_in_flight() -> None:
    gate = Gate(1)
    gate.enter()
    with pytest.raises(Unavailable, match="1 requests are in flight"):
        gate.enter()
    gate.leave()
    gate.enter()
    assert gate.in_flight == 1
