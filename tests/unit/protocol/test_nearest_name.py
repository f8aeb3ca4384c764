"""The nearest name is offered only where it is near."""

import pytest

from pilotlight_protocol.nearest_name import did_you_mean

KNOWN = ["--max_sequences", "--max_queue", "minReplicas", "autoscaling.knative.dev/min-scale"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("--max_sequnces", "--max_sequences"),
        ("--max-sequences", "--max_sequences"),
        ("minreplica", "minReplicas"),
        ("autoscaling.knative.dev/minScal", "autoscaling.knative.dev/min-scale"),
        ("--enable-auto-tool-choice", None),
        ("", None),
    ],
)
def test_nearest(name: str, meant: str | None) -> None:
    assert did_you_mean(name, KNOWN) == ("" if meant is None else f"; did you mean {meant}?")
