"""What can never start is refused at apply, at the line where it stands. The components are asked in real processes."""

import os
import sys
from pathlib import Path

import pytest

from pilotlight_local.embedded.applying import load
from pilotlight_local.embedded.obstacles import Obstacles
from pilotlight_local.errors import RefusedError
from pilotlight_local.pods import model_mounts
from pilotlight_specs.kpa import default_config

SPEC = """\
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterServingRuntime
metadata: {{name: cpu}}
spec:
  supportedModelFormats: [{{name: pilotlight, version: "1"}}]
  containers:
  - name: kserve-container
    image: {image}
    args: {runtime_args}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: demo
  annotations: {{serving.kserve.io/deploymentMode: Knative}}
spec:
  predictor:
    model:
      modelFormat: {{name: pilotlight}}
      runtime: cpu
      storageUri: {uri}
      args:
      - --max_queue=7
      - {arg}
  transformer:
    containers:
    - image: pilotlight/transformer:0.1.0
      args: {transformer}
"""
GOOD = {
    "image": "pilotlight/predictor-cpu:0.1.0",
    "runtime_args": "[--model_name=x, --grpc_port=9000]",
    "uri": "bundled://demo-awq",
    "arg": "--engine_arg=max_model_len=64",
    "transformer": "[--model_uri=bundled://demo-awq]",
}


def refused(folder: Path, spec: str = SPEC, **changed: str) -> list[str]:
    path = folder / "spec.yaml"
    path.write_text(spec.format(**GOOD | changed))
    try:
        load([path], default_config(), lambda: Obstacles(sys.executable, os.environ["PATH"]))
    except RefusedError as error:
        return list(error.messages)
    return []


def test_what_can_start_is_not_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == []


@pytest.mark.parametrize(
    ("changed", "line", "words"),
    [
        ({"image": "example/hfserver:1"}, 18, "has no command, and images are not run here"),
        ({"uri": f"file://{Path(__file__)}"}, 21, "is not a directory"),
        ({"uri": "bundled://demo-awk"}, 21, "demo-awk"),
        ({"uri": "hf://one-part-only"}, 21, "must look like"),
        ({"uri": "hf://org/name:0123abc:x"}, 21, "must look like"),
        ({"uri": "oci://registry.example/models/tiny:1"}, 21, "oci:// are not supported"),
        ({"uri": "pvc://team-claim/models/tiny"}, 21, "there is no folder /mnt/pvc/team-claim/models/tiny"),
        ({"arg": "--max-model-len=256"}, 24, "write --engine_arg=max_model_len=256"),
        ({"arg": "--max_sequnces=4"}, 24, "did you mean --max_sequences?"),
        ({"arg": "--quantization=gguf"}, 24, "invalid choice"),
        ({"arg": "--engine_arg=trust_remote_code"}, 22, "'trust_remote_code' cannot be set"),
        ({"arg": "--lora_module=a=/nowhere/at/all"}, 24, "no directory /nowhere/at/all"),
        ({"runtime_args": "[--max_sequnces=4]"}, 22, "did you mean --max_sequences?"),
        ({"transformer": "[--max_model_length=9]"}, 28, "did you mean --max_model_len?"),
        ({"transformer": "[--model_uri=bundled://demo-awk]"}, 28, "demo-awk"),
        ({"transformer": "[--model_uri, 'hf://one-part']"}, 28, "must look like"),
        ({"transformer": "[--model_uri=file:///nowhere/at/all]"}, 28, "is not a directory"),
        ({"transformer": "[]"}, 28, "mount a model at /mnt/models"),
    ],
)
def test_what_cannot_start_is_refused_where_it_stands(
    tmp_path: Path, changed: dict[str, str], line: int, words: str
) -> None:
    (said,) = refused(tmp_path, **changed)
    assert f"spec.yaml:{line}: InferenceService default/demo" in said
    assert words in said


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ("file:///nowhere/at/all", "is not a directory"),
        ("pvc://team/adapter", "there is no folder /mnt/pvc/team/adapter"),
        ("oci://registry/adapter", "must be the URI of a LoRA adapter"),
        ("hf://one-part", "must be the URI of a LoRA adapter"),
    ],
)
def test_an_adapter_that_is_not_there_is_refused(tmp_path: Path, adapter: str, words: str) -> None:
    mode = "serving.kserve.io/deploymentMode: Knative"
    said = refused(tmp_path, SPEC.replace(mode, f"{mode}, pilotlight.dev/adapter: {adapter}"))
    assert any(words in each for each in said), said


@pytest.mark.parametrize("component", ["predictor", "transformer"])
def test_one_component_alone_has_no_adapter(tmp_path: Path, component: str) -> None:
    spec = SPEC.replace(
        f"  {component}:\n", f"  {component}:\n    annotations: {{{{pilotlight.dev/adapter: 'hf://a/b'}}}}\n"
    )
    (said,) = refused(tmp_path, spec)
    assert "write it in metadata.annotations" in said


def test_an_adapter_that_would_be_left_out_is_refused(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    mode = "serving.kserve.io/deploymentMode: Knative"
    spec = SPEC.replace(mode, f"{mode}, pilotlight.dev/adapter: {adapter.as_uri()}")
    assert refused(tmp_path, spec) == []
    said = refused(tmp_path, spec.replace("image: {image}", "command: [python, -m, http.server]"))
    assert any("answer without the adapter" in each for each in said), said


def test_a_folder_of_the_model_is_there_for_the_arguments(tmp_path: Path) -> None:
    assert refused(tmp_path, arg="--lora_module=a=/mnt/models/adapters/a") == []


def test_a_claim_that_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_mounts, "CLAIMS_FOLDER", tmp_path / "claims")
    (tmp_path / "claims" / "team claim" / "tiny").mkdir(parents=True)
    assert refused(tmp_path, uri="pvc://team%20claim/tiny") == []


def test_a_component_that_is_not_installed_is_left_to_its_pod(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.format(**GOOD | {"arg": "--max_sequnces=4"}))
    assert load([path], default_config(), lambda: Obstacles("/bin/false", os.environ["PATH"])).services


@pytest.mark.parametrize(
    ("command", "is_refused"),
    [("[python, -c, pass]", False), ("[sh, -c, x]", False), ("[no-such-program]", True), ("[/no/such/program]", True)],
)
def test_programs_are_looked_for(tmp_path: Path, command: str, is_refused: bool) -> None:
    said = refused(tmp_path, image=f"any\n    command: {command}", runtime_args="[]", arg="a")
    assert bool(said) == is_refused
