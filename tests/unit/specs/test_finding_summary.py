"""Remarks on many alike objects are one line, with the first places and a count."""

from __future__ import annotations

from pilotlight_specs import Finding, summarize


def finding(number: int, path: str = "spec.predictor.containers[0].resources") -> Finding:
    return Finding(
        "unsupported", f"many{number}.yaml", f"InferenceService default/e{number}", path, "no limits are set"
    )


def test_a_lone_finding_keeps_its_whole_text() -> None:
    assert summarize([finding(0)]) == (str(finding(0)),)


def test_alike_findings_share_a_line_that_counts_them() -> None:
    (line,) = summarize([finding(number) for number in range(200)])
    assert "resources in 200 places" in line
    assert "many0.yaml spec.predictor.containers[0].resources" in line
    assert line.endswith("and 198 more)")


def test_another_field_or_reason_is_another_line() -> None:
    assert len(summarize([finding(0), finding(1, "spec.predictor.nodeSelector"), finding(2)])) == 2
