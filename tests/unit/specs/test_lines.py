"""Every finding names the line: of the field, or of what the missing one belongs to."""

import pytest

from pilotlight_specs import parse_documents, resolve

SPEC = """\
apiVersion: v1
kind: Namespace
metadata: {name: team}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: demo
  annotations:
    serving.kserve.io/deploymentMode: Knative
    autoscaling.knative.dev/windw: 10s
    pilotlight.dev/prewarn: always
    team.example/own: "1"
spec:
  predictor:
    minReplica: 0
    maxReplicas: -1
    nodeSelector: {disk: ssd}
    containers:
    - command: [python, -m, pilotlight_predictor]
      args:
      - --a
      - 1
      readinessProbe: {httpGet: {path: /ready}, periodSecond: 1}
"""
ANNOTATIONS, CONTAINER = "metadata.annotations", "spec.predictor.containers[0]"


def findings(text):
    documents, faults = parse_documents(text, "f.yaml")
    assert not faults
    return {finding.path: finding for finding in resolve(documents).findings}


@pytest.mark.parametrize(
    ("path", "line", "words"),
    [
        (f'{ANNOTATIONS}["autoscaling.knative.dev/windw"]', 11, "did you mean autoscaling.knative.dev/window?"),
        (f'{ANNOTATIONS}["pilotlight.dev/prewarn"]', 12, "did you mean pilotlight.dev/prewarm?"),
        ("spec.predictor.minReplica", 16, "did you mean minReplicas?"),
        ("spec.predictor.maxReplicas", 17, "must be in"),
        ("spec.predictor.nodeSelector", 18, "one machine"),
        (f"{CONTAINER}.args[1]", 23, "must be a string"),
        (f"{CONTAINER}.readinessProbe.periodSecond", 24, "did you mean periodSeconds?"),
    ],
)
def test_line_and_nearest_name(path, line, words) -> None:
    finding = findings(SPEC)[path]
    assert (finding.place, words in finding.reason) == (f"f.yaml:{line}", True), str(finding)


def test_annotations_of_others_are_theirs() -> None:
    assert not [path for path in findings(SPEC) if "team.example" in path]


def test_what_is_missing_has_the_line_of_what_it_belongs_to() -> None:
    text = SPEC.replace("  predictor:\n", "  predicter:\n")
    assert findings(text)["spec.predictor"].line == 14
    assert findings(text)["spec.predicter"].reason == "unknown field; did you mean predictor?"


def test_json_and_lists_have_lines_too() -> None:
    text = """\
{"kind": "List",
 "items": [
  {"apiVersion": "v1", "kind": "Service"},
  7,
  {"apiVersion": "v1",
   "kind": "Service"}]}"""
    documents, (fault,) = parse_documents(text, "f.json")
    assert [document.place for document in documents] == ["f.json:3", "f.json:5"]
    assert fault.place == "f.json:4"
    assert [finding.line for finding in resolve(documents).findings if finding.path == "kind"] == [3, 6]


def test_yaml_that_nests_itself_ends() -> None:
    nested = "a: &a {b: &b {c: x}}\n" + "".join(f"k{n}: [*a, *b]\n" for n in range(100))
    bomb = "x0: &x0 [1, 1]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]\n" for n in range(1, 40))
    for text in (nested, bomb, "a: &a [*a]"):
        documents, _ = parse_documents(text, "f.yaml")
        assert len(documents) == 1
