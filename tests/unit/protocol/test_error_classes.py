"""Each error knows its status on every protocol, and a status finds its way back to its class."""

from __future__ import annotations

import pytest

from pilotlight_protocol import errors


@pytest.mark.parametrize("status", sorted(errors.BY_STATUS))
def test_a_status_survives_a_hop(status: int) -> None:
    error = errors.from_status(status, "why", 2.5)
    assert error.http_status == status
    assert error.message == "why"
    assert error.retry_after_header == ("3" if status in (429, 503) else None)


@pytest.mark.parametrize(("status", "becomes"), [(418, 400), (502, 503), (507, 500), (302, 500)])
def test_a_status_without_a_class_keeps_its_side(status: int, becomes: int) -> None:
    assert errors.from_status(status, "why").http_status == becomes


def test_retry_after_is_at_least_a_second() -> None:
    assert errors.Unavailable("later", retry_after_s=0.01).retry_after_header == "1"


def test_grpc_codes_are_distinct_enough_to_come_back() -> None:
    codes = [cls.grpc_code for cls in errors.BY_STATUS.values()]
    assert all(1 <= code <= 16 for code in codes)


@pytest.mark.parametrize(
    ("param", "header"),
    [
        (None, None),
        ("max_tokens", "max_tokens"),
        ("messages[0].role", "messages[0].role"),
        ("a\r\nb: c", None),
        ("é", None),
    ],
)
def test_only_a_plain_parameter_goes_into_a_header(param: str | None, header: str | None) -> None:
    assert errors.InvalidInput("wrong", param=param).param_header == header
    assert errors.from_status(400, "wrong", param=param).param == param
