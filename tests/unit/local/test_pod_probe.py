"""What a readiness probe's answer says."""

import pytest

from pilotlight_local.pods.pod_probe import LONGEST_REASON, reason_in


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error": "the engine is starting"}', "the engine is starting"),
        (b'{"error": "two\\n  lines"}', "two lines"),
        (b'{"error": {"message": "x"}}', ""),
        (b'{"ready": false}', ""),
        (b"[]", ""),
        (b"not ready", ""),
        (b"", ""),
        (b'{"error": "' + b"x" * 1000 + b'"}', "x" * LONGEST_REASON),
    ],
)
def test_reasons(body: bytes, reason: str) -> None:
    assert reason_in(body) == reason
