"""Probes as written: defaults by kind, and what is said at apply of fields that mean something else on a cluster."""

import pytest

from pilotlight_specs import parse_documents, resolve

SPEC = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {{name: demo, annotations: {{serving.kserve.io/deploymentMode: Knative}}}}
spec:
  predictor:
    containers:
    - command: [python, -m, pilotlight_predictor]
      readinessProbe: {readiness}
      {others}
"""
HTTP = "httpGet: {path: /v2/health/ready}"
AT = "spec.predictor.containers[0]."


def read(readiness="{" + HTTP + "}", others=""):
    documents, faults = parse_documents(SPEC.format(readiness=readiness, others=others), "f.yaml")
    assert not faults
    return resolve(documents)


def findings(desired):
    return {(item.severity, item.path.removeprefix(AT)): item.reason for item in desired.findings}


@pytest.mark.parametrize(
    ("probe", "period_s"),
    [("livenessProbe", 10), ("startupProbe", 10)],
)
@pytest.mark.parametrize("written", ["", "periodSeconds: 0"])
def test_kubernetes_default_period(probe, period_s, written) -> None:
    (service,) = read(others=f"{probe}: {{{HTTP}, {written}}}").services
    container = service.predictor.pod.container
    assert (container.liveness or container.startup).period_s == period_s


@pytest.mark.parametrize(
    ("readiness", "others", "finding", "words"),
    [
        (f"{{{HTTP}}}", "startupProbe: {tcpSocket: {}}", ("warning", "startupProbe"), "readiness polling"),
        ("{exec: {command: [x]}}", "", ("warning", "readinessProbe.exec"), "readiness polling"),
        (f"{{{HTTP}, initialDelaySeconds: 5}}", "", ("warning", "readinessProbe.initialDelaySeconds"), "not wait"),
        (f"{{{HTTP}, failureThreshold: 5}}", "", ("warning", "readinessProbe.failureThreshold"), "Knative refuses"),
        (f"{{{HTTP}, timeoutSeconds: 5}}", "", ("warning", "readinessProbe.timeoutSeconds"), "Knative refuses"),
        (f"{{{HTTP}}}", "livenessProbe: {grpc: {}}", ("unsupported", "livenessProbe.grpc"), "not asked"),
        (
            f"{{{HTTP}}}",
            f"livenessProbe: {{{HTTP}, successThreshold: 2}}",
            ("error", "livenessProbe.successThreshold"),
            "must be 1",
        ),
    ],
)
def test_what_is_said_at_apply(readiness, others, finding, words) -> None:
    assert words in findings(read(readiness, others)).get(finding, "nothing")


@pytest.mark.parametrize(
    ("readiness", "others"),
    [
        (f"{{{HTTP}}}", ""),
        (f"{{{HTTP}, periodSeconds: 2, failureThreshold: 5, timeoutSeconds: 3, successThreshold: 2}}", ""),
        (f"{{{HTTP}}}", f"livenessProbe: {{{HTTP}, initialDelaySeconds: 5, periodSeconds: 2, failureThreshold: 9}}"),
    ],
)
def test_what_is_honoured_as_written_is_not_talked_about(readiness, others) -> None:
    assert findings(read(readiness, others)) == {}
