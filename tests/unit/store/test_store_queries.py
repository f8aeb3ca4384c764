from __future__ import annotations

import pytest

from pilotlight_store.sources.http_source import without_signature


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("", "", True),
        ("ref=main", "ref=dev", False),
        ("ref=main&X-Amz-Signature=1&X-Amz-Date=2", "ref=main&X-Amz-Signature=3&X-Amz-Date=4", True),
        ("ref=main&X-Amz-Signature=1", "ref=dev&X-Amz-Signature=1", False),
        ("X-Goog-Signature=1&X-Goog-Expires=2", "X-Goog-Signature=3&X-Goog-Expires=4", True),
        ("sv=1&se=2&sig=3&sp=r", "sv=4&se=5&sig=6&sp=r", True),
        ("sv=1&se=2&sig=3&snapshot=a", "sv=1&se=2&sig=3&snapshot=b", False),
        ("sig=1", "sig=2", False),
        ("X-Amz-Meta=1", "X-Amz-Meta=2", False),
        ("sp=a&sv=1", "sp=b&sv=1", False),
        ("empty=", "", False),
    ],
)
def test_what_chooses_a_model_is_told_from_a_signature(one: str, other: str, same: bool) -> None:
    assert (without_signature(one) == without_signature(other)) is same
