"""Error shapes, request ids, and the metrics text."""

from __future__ import annotations

import json

import pytest
from pilotlight_protocol.errors import InvalidInput, Unavailable
from pilotlight_serving.error_bodies import error_body, error_event
from pilotlight_serving.gate import Gate
from pilotlight_serving.request_identity import request_id

ERROR = InvalidInput("'n' is wrong", param="n")


def test_shapes() -> None:
    assert json.loads(error_body(ERROR, "v2")) == {"error": "'n' is wrong"}
    assert json.loads(error_body(ERROR, "openai")) == {
        "error": {"message": "'n' is wrong", "type": "invalid_request_error", "param": "n", "code": 400}
    }
    assert json.loads(error_event(ERROR, "v2").removeprefix(b"data: ")) == {"error": "'n' is wrong", "status": 400}
    assert json.loads(error_event(ERROR, "openai").removeprefix(b"data: "))["error"]["code"] == 400
    assert error_event(ERROR, "v2").endswith(b"\n\n")


@pytest.mark.parametrize("given", ["abc", "a" * 128, "0:1/2+3=4@5_6.7-8"])
def test_a_fit_id_is_kept(given: str) -> None:
    assert request_id(given) == given


@pytest.mark.parametrize("given", [None, "", "a" * 129, "a b", "a\nb", "é", "a\n", '"'])
def test_an_unfit_id_is_replaced(given: str | None) -> None:
    made = request_id(given)
    assert made != given
    assert len(made) == 32


def test_the_gate_counts_and_refuses() -> None:
    gate = Gate(max_concurrent=1)
    gate.enter()
    with pytest.raises(Unavailable, match="1 requests are in flight"):
        gate.enter()
    gate.leave()
    gate.refusing = True
    with pytest.raises(Unavailable, match="shutting down"):
        gate.enter()
    assert gate.in_flight == 0
