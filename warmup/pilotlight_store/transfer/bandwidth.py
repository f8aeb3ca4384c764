"""A bandwidth cap as a token bucket. Pure: time comes in as seconds, the wait goes out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BandwidthCap:
    """`rate_bytes_per_s` on average; up to `burst_bytes` at once after idling."""

    rate_bytes_per_s: float
    burst_bytes: float


@dataclass(frozen=True)
class Bucket:
    """`tokens_bytes` may be negative: what has been taken in advance and is waited for."""

    tokens_bytes: float
    at_s: float


def full(cap: BandwidthCap, now_s: float) -> Bucket:
    return Bucket(cap.burst_bytes, now_s)


def take(cap: BandwidthCap, bucket: Bucket, amount_bytes: int, now_s: float) -> tuple[float, Bucket]:
    """Seconds to wait before the next `amount_bytes`, and the bucket after them.

    Bytes are taken at once and paid by waiting, so concurrent takers queue behind one another and the average holds
    whatever the amounts are.
    """
    elapsed_s = max(0.0, now_s - bucket.at_s)
    tokens = min(cap.burst_bytes, bucket.tokens_bytes + elapsed_s * cap.rate_bytes_per_s) - amount_bytes
    return max(0.0, -tokens / cap.rate_bytes_per_s), Bucket(tokens, max(now_s, bucket.at_s))
