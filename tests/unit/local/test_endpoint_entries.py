"""What the gateway is told of an endpoint, from files: leases as its pods would ask for, or none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pilotlight_local.embedded.applying import load
from pilotlight_local.embedded.endpoint_entries import RoutedEndpoint, entry_of
from pilotlight_local.embedded.obstacles import Obstacles
from pilotlight_protocol.endpoint_directory import EndpointEntry, PodsAddress
from pilotlight_specs.kpa import default_config

SPEC = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: demo
  namespace: team
  annotations:
    serving.kserve.io/deploymentMode: Knative
    pilotlight.dev/prewarm: ""
    {annotation}
spec:
  predictor:
    timeout: 77
    containers:
    - name: kserve-container
      image: {image}
      args: [--model_name=fine, {arg}]
      env: [{{name: STORAGE_URI, value: "{uri}"}}]
  transformer:
    containers:
    - image: {transformer}
      args: [--model_name=fine, --model_uri=bundled://demo-awq, --tool_parser=hermes]
"""
GOOD = {
    "annotation": "pilotlight.dev/front: shared",
    "image": "pilotlight/predictor-cpu:0.1.0",
    "arg": "--model_uri=bundled://demo-awq",
    "uri": "bundled://demo-awq",
    "transformer": "pilotlight/transformer:0.1.0",
}


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("entries")

    def made(*, has_pool: bool = True, is_split: bool = False, pods_ready: int = 0, **changed: str) -> EndpointEntry:
        path = folder / "spec.yaml"
        path.write_text(SPEC.format(**GOOD | changed))
        desired = load([path], default_config(), lambda: Obstacles(sys.executable, os.environ["PATH"]))
        (service,) = desired.services
        address = PodsAddress("http://127.0.0.1:8080", "demo.team.localhost")
        routed = RoutedEndpoint("team", "demo", service.predictor, service.transformer, is_split, address, pods_ready)
        return entry_of(
            routed, desired.means, lambda uri: "/bundled" if uri.startswith("bundled:") else None, has_pool=has_pool
        )

    return made


def test_the_lease_is_the_predictors_own(entry) -> None:
    told = entry(arg="--model_dir=/mnt/models, --priority=interactive, --max_queue=7, --engine_arg=max_model_len=64")
    assert (told.model_names, told.front, told.timeout_s) == (("fine",), "shared", 300.0)
    assert told.lease is not None
    assert (told.lease.tenant, told.lease.priority, told.lease.prewarm) == ("team", "interactive", "")
    assert told.lease.engine_args == {"max_model_len": "64"}
    assert told.bounds.max_queue == 7
    assert told.text is not None
    assert (told.text.model_uri, told.text.tool_parser) == ("bundled://demo-awq", "hermes")


@pytest.mark.parametrize(
    ("uri", "arg", "model"),
    [
        ("bundled://demo-awq", "--model_dir=/mnt/models", "/bundled"),
        ("bundled://demo-awq", "--model_dir=/mnt/models/", "/bundled"),
        ("bundled://demo-awq", "--model_dir=/mnt/models/part", "/bundled/part"),
        ("hf://org/name", "--model_dir=/mnt/models", "hf://org/name"),
        ("hf://org/name", "--model_dir=/mnt/models/part", None),
        ("hf://org/name", "--model_uri=hf://org/other", "hf://org/other"),
        ("hf://org/name", "'--lora_module=a=/mnt/models/a', --model_uri=hf://org/other", None),
    ],
)
def test_paths_in_the_pod_are_told_as_what_lies_there(entry, uri: str, arg: str, model: str | None) -> None:
    told = entry(uri=uri, arg=arg)
    assert (told.lease.model if told.lease is not None else None) == model


@pytest.mark.parametrize(
    ("changed", "has_pool"),
    [
        ({}, False),
        ({"arg": "--pool_url=http://pool:1"}, True),
        ({"arg": "--model_name=other"}, True),
        ({"image": "any\n      command: [python, -m, http.server]"}, True),
    ],
)
def test_what_has_an_engine_of_its_own_leases_none(entry, changed: dict[str, str], has_pool: bool) -> None:
    assert entry(has_pool=has_pool, **changed).lease is None


def test_a_foreign_transformer_has_no_text_of_ours(entry) -> None:
    assert entry(transformer="any\n      command: [python, -m, http.server]").text is None


@pytest.mark.parametrize(("annotation", "told"), [("", "send"), ("pilotlight.dev/cache-salt: none", "none")])
def test_whether_a_foreign_server_takes_salts_is_told(entry, annotation: str, told: str) -> None:
    assert entry(annotation=annotation).cache_salt == told


def test_traffic_that_is_split_goes_to_the_pods(entry) -> None:
    assert entry(is_split=True).front == "pods"


def test_the_digest_is_the_specs(entry) -> None:
    one = entry()
    assert one.spec_digest == entry(pods_ready=3).spec_digest
    assert one.spec_digest != entry(arg="--model_uri=bundled://demo-bf16").spec_digest


@pytest.mark.parametrize("annotation", ["pilotlight.dev/front: pod", "pilotlight.dev/fornt: pods"])
def test_another_way_is_refused_or_told(tmp_path: Path, annotation: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.format(**GOOD | {"annotation": annotation}))
    try:
        said = list(load([path], default_config(), lambda: Obstacles(sys.executable, os.environ["PATH"])).findings)
    except Exception as error:
        said = list(getattr(error, "messages", ()))
    assert any("pilotlight.dev/front" in each for each in said)
