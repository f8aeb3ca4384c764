"""Asking for a lease: every way the pool may answer, what is given back, and what a holder is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scripted_pool import Entry, ScriptedPool, error, lease

from pilotlight_engine.leasing import lease_client
from pilotlight_engine.leasing.lease_client import LeaseAsk
from pilotlight_engine.leasing.lease_errors import LeaseEnded, LeaseRefused, PoolUnreachable
from pilotlight_engine.leasing.pool_http import Answer, check_pool_url
from pilotlight_protocol.errors import InvalidInput, ModelNotFound, PayloadTooLarge
from pilotlight_protocol.leases import LeaseRequest

SCHEDULE = "cron 0 9 * * *"
WISH = LeaseRequest("bundled://demo", "m", engine_args={"max_model_len": "64"}, loras=(("a", "/a"),), prewarm=SCHEDULE)
QUEUED = lease("queued", reasons=["slot busy"])


def ask(pool: ScriptedPool, times: Iterator[float] | None = None) -> LeaseAsk:
    return LeaseAsk(WISH, pool, 60.0, (lambda: next(times)) if times is not None else lambda: 0.0)


def test_a_lease_that_is_granted_at_once_takes_one_call() -> None:
    pool = ScriptedPool(lease())
    granted = ask(pool).run()
    assert (granted.lease_id, granted.endpoint, granted.path) == ("L1", "unix:///slot.sock", "swap")
    assert granted.phases_s == {"queue": 0.0, "swap": 0.05}
    assert pool.calls == [("POST", "/v1/leases")]
    assert pool.bodies[0]["engine_args"] == {"max_model_len": "64"}
    assert pool.bodies[0]["loras"] == [["a", "/a"]]
    assert pool.bodies[0]["prewarm"] == SCHEDULE
    assert "s3cret" not in repr(granted)


def test_a_queued_lease_is_polled_with_the_secret_of_the_first_answer() -> None:
    pool = ScriptedPool(QUEUED, lease("placing", secret=""), lease(secret=""))
    assert ask(pool).run().secret == "s3cret"
    assert [method for method, _ in pool.calls] == ["POST", "GET", "GET"]


@pytest.mark.parametrize("gone", [404, 410])
def test_a_pool_that_forgot_the_lease_is_asked_anew(gone: int) -> None:
    pool = ScriptedPool(QUEUED, error(gone), lease(lease_id="L2"))
    assert ask(pool).run().lease_id == "L2"


@pytest.mark.parametrize(
    ("script", "raised", "words"),
    [
        ([error(503, "queue full", 7)], LeaseRefused, "queue full"),
        ([error(429, "too many")], LeaseRefused, "too many"),
        ([error(404, "no such model")], ModelNotFound, "no such model"),
        ([error(400, "engine argument")], InvalidInput, "engine argument"),
        ([error(413, "too large")], PayloadTooLarge, "too large"),
        ([error(500, "boom")], LeaseRefused, "boom"),
        ([error(507, "disk full")], LeaseRefused, "disk full"),
        ([Answer(502)], PoolUnreachable, "status 502"),
        ([PoolUnreachable("refused")], PoolUnreachable, "refused"),
        ([Answer(200, b'{"hello": 1}')], PoolUnreachable, "lease_id"),
        ([Answer(200, b"[]")], PoolUnreachable, "object"),
        ([Answer(404, b"<html>")], PoolUnreachable, "status 404"),
        ([Answer(400, b'{"detail": "x"}')], PoolUnreachable, "error"),
        ([lease(endpoint="")], PoolUnreachable, "endpoint"),
        ([QUEUED, error(503, "preempted")], LeaseRefused, "preempted"),
        ([QUEUED, PoolUnreachable("gone")], PoolUnreachable, "gone"),
    ],
)
def test_what_is_not_a_grant(script: list[Entry], raised: type[Exception], words: str) -> None:
    pool = ScriptedPool(*script)
    with pytest.raises(raised, match=words):
        ask(pool).run()
    has_lease = isinstance(script[0], Answer) and b"lease_id" in script[0].body
    assert pool.given_back == (["L1"] if has_lease else [])


def test_the_refusals_time_to_wait_is_kept() -> None:
    with pytest.raises(LeaseRefused) as caught:
        ask(ScriptedPool(error(503, "full", 7))).run()
    assert caught.value.retry_after_s == 7


def test_waiting_ends_at_the_deadline_with_the_pools_reasons() -> None:
    pool = ScriptedPool(QUEUED, lease("queued", reasons=["slot busy"], eta_s=42.0))
    with pytest.raises(LeaseRefused, match="no engine within 60 s: slot busy") as caught:
        ask(pool, iter([0.0, 1.0, 2.0, 61.0, 62.0])).run()
    assert caught.value.retry_after_s == 42.0
    assert pool.given_back == ["L1"]


def test_cancelling_ends_a_long_poll_and_gives_the_lease_back() -> None:
    pool = ScriptedPool(QUEUED)
    asking, future = lease_client.begin(ask(pool))
    while len(pool.calls) < 2:
        pass
    asking.cancel()
    with pytest.raises(PoolUnreachable):
        future.result(timeout=10)
    assert pool.given_back == ["L1"]


def test_a_grant_that_comes_with_the_cancellation_is_given_back() -> None:
    asking: list[LeaseAsk] = []

    def cancelled_meanwhile(_: object) -> Answer:
        asking[0].cancel()
        return lease()

    pool = ScriptedPool(cancelled_meanwhile)
    asking.append(ask(pool))
    with pytest.raises(LeaseEnded):
        asking[0].run()
    assert pool.given_back == ["L1"]


@pytest.mark.parametrize(("status", "raised"), [(404, LeaseEnded), (410, LeaseEnded), (500, LeaseRefused)])
def test_heartbeats_say_why_a_lease_is_over(status: int, raised: type[Exception]) -> None:
    pool = ScriptedPool()
    lease_client.renew(pool(), "L1")
    pool.heartbeats.append(error(status, "preempted for b"))
    with pytest.raises(raised, match="preempted for b"):
        lease_client.renew(pool(), "L1")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://pool", "unix:///run/pool.sock"])
def test_addresses_of_a_pool(url: str) -> None:
    check_pool_url(url)


@pytest.mark.parametrize("url", ["127.0.0.1:9", "ftp://pool", "unix://run/pool.sock", "http://", "pool"])
def test_what_is_no_address_of_a_pool(url: str) -> None:
    with pytest.raises(InvalidInput, match="--pool_url must be"):
        check_pool_url(url)
