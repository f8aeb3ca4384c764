"""argv and environment of a process that stands for a pod: exactly what KServe and Knative give, localised."""

import dataclasses

import pytest

from pilotlight_local.pods.pod_command import (
    NoEntrypoint,
    Placement,
    expand_variables,
    leases_engines,
    pod_command,
    pool_env,
)
from pilotlight_specs import EnvVar, parse_documents, resolve

SPEC = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: demo, namespace: team}
spec:
  predictor:
    containers:
    - image: registry/x/pilotlight-predictor:0.1@sha256:0
      workingDir: /mnt/models
      args:
        [--model_dir=/mnt/models, --draft=/mnt/models-draft, --sub, /mnt/models/tok, --name=$(INFERENCE_SERVICE_NAME)]
      env:
      - {name: BASE, value: /mnt/models}
      - {name: FULL, value: "$(BASE)/a:$(LATER):$$(BASE)"}
      - {name: LATER, value: "1"}
  transformer:
    containerConcurrency: 0
    containers:
    - image: pilotlight-transformer
"""


def service():
    documents, _ = parse_documents(SPEC, "f.yaml")
    (found,) = resolve(documents).services
    return found


def placed(component, **changes):
    placement = Placement(port=23001, python="/venv/bin/python", predictor_address="127.0.0.1:4000", **changes)
    return pod_command(component, f"{component.service_name}-00001", placement)


def with_container(component, **changes):
    container = dataclasses.replace(component.pod.container, **changes)
    return dataclasses.replace(component, pod=dataclasses.replace(component.pod, container=container))


def test_the_environment_is_the_spec_then_kserve_then_knative_and_nothing_else() -> None:
    command = placed(service().predictor)
    assert command.env == (
        ("BASE", "/mnt/models"),
        ("FULL", "/mnt/models/a:$(LATER):$(BASE)"),
        ("LATER", "1"),
        ("INFERENCE_SERVICE_NAME", "demo"),
        ("PORT", "23001"),
        ("K_REVISION", "demo-predictor-00001"),
        ("K_CONFIGURATION", "demo-predictor"),
        ("K_SERVICE", "demo-predictor"),
    )


def test_our_images_name_their_entrypoint_and_python_is_the_platforms() -> None:
    assert placed(service().predictor).argv[:3] == ("/venv/bin/python", "-m", "pilotlight_predictor")
    assert placed(service().transformer).argv[:3] == ("/venv/bin/python", "-m", "pilotlight_transformer")


def test_other_images_need_a_command() -> None:
    with pytest.raises(NoEntrypoint, match="set command"):
        placed(with_container(service().predictor, image="vllm/vllm-openai:v1"))
    assert placed(with_container(service().predictor, image="a", command=("bash", "-c"))).argv[:2] == ("bash", "-c")


def test_mount_paths_become_directories_in_args_env_and_working_directory() -> None:
    command = placed(service().predictor, directories={"/mnt/models": "/cache/m1"})
    assert command.argv[3:] == (
        "--model_dir=/cache/m1",
        "--draft=/mnt/models-draft",
        "--sub",
        "/cache/m1/tok",
        "--name=demo",
    )
    assert dict(command.env)["BASE"] == "/cache/m1"
    assert dict(command.env)["FULL"].startswith("/cache/m1/a:")
    assert command.working_dir == "/cache/m1"


def test_the_longest_mount_path_wins() -> None:
    component = with_container(service().predictor, args=("/mnt/models/draft/x", "/mnt/models/y"))
    directories = {"/mnt/models": "/a", "/mnt/models/draft": "/b"}
    assert placed(component, directories=directories).argv[3:] == ("/b/x", "/a/y")


def test_an_empty_dir_on_tmp_is_where_temporary_files_go() -> None:
    assert dict(placed(service().predictor, directories={"/tmp": "/scratch"}).env)["TMPDIR"] == "/scratch"
    assert "TMPDIR" not in dict(placed(service().predictor).env)


def test_the_transformer_gets_its_port_and_the_predictors_address() -> None:
    assert placed(service().transformer).argv[3:] == (
        "--model_name",
        "demo",
        "--predictor_host",
        "127.0.0.1:4000",
        "--http_port",
        "23001",
        "--workers",
        "0",
    )


@pytest.mark.parametrize(
    ("arg", "expected"),
    [
        ("--predictor_host=demo-predictor.team:80", "--predictor_host=127.0.0.1:4000"),
        ("http://demo-predictor.team.svc.cluster.local/v2", "http://127.0.0.1:4000/v2"),
        ("demo-predictor.team.svc", "127.0.0.1:4000"),
        ("demo-predictor.teams", "demo-predictor.teams"),
        ("my-demo-predictor.team", "my-demo-predictor.team"),
        ("demo-predictor.other", "demo-predictor.other"),
        ("--http_port=8080", "--http_port=23001"),
        ("--port=8080", "--port=23001"),
        ("--http_port=9999", "--http_port=9999"),
        ("--budget=8080", "--budget=8080"),
        ("$(PORT)", "23001"),
        ("$(NOT_SET)", "$(NOT_SET)"),
    ],
)
def test_single_arguments(arg, expected) -> None:
    assert placed(with_container(service().predictor, args=(arg,))).argv[3:] == (expected,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A", "$A"),
        ("$(", "$("),
        ("$()", "$()"),
        ("a$(A)b$(B)c", "a1b$(A)c"),
        ("$", "$"),
        ("", ""),
    ],
)
def test_kubernetes_variable_expansion(text, expected) -> None:
    assert expand_variables(text, {"A": "1", "B": "$(A)"}) == expected


@pytest.mark.parametrize(
    ("changes", "leases"),
    [
        ({}, True),
        ({"image": "x", "command": ("python", "-m", "pilotlight_predictor")}, True),
        ({"image": "x", "command": ("sh", "-c", "exec python -m pilotlight_predictor")}, True),
        ({"image": "x", "command": ("python", "serve.py")}, False),
        ({"image": "x"}, False),
        ({"env": (EnvVar("PILOTLIGHT_POOL_URL", "http://pool:8090"),)}, False),
        ({"env": (EnvVar("PILOTLIGHT_POOL_URL", ""),)}, False),
        ({"args": ("--pool_url=http://pool:8090",)}, False),
    ],
)
def test_our_predictor_leases_engines_unless_its_spec_says_something_about_a_pool(changes, leases) -> None:
    assert leases_engines(with_container(service().predictor, **changes)) is leases


def test_a_pod_hears_of_the_pool_as_its_namespaces_tenant_and_of_its_prewarm_schedule() -> None:
    component = service().predictor
    plain = {"PILOTLIGHT_POOL_URL": "unix:///p.sock", "PILOTLIGHT_TENANT": "team"}
    assert pool_env(component, "unix:///p.sock") == plain
    spec = SPEC.replace("namespace: team", 'namespace: team, annotations: {pilotlight.dev/prewarm: "cron 0 9 * * *"}')
    (annotated,) = resolve(parse_documents(spec, "f.yaml")[0]).services
    assert pool_env(annotated.predictor, "unix:///p.sock") == {**plain, "PILOTLIGHT_PREWARM": "cron 0 9 * * *"}


def test_both_components_hear_of_the_adapter_whoever_has_its_engine() -> None:
    spec = SPEC.replace("namespace: team", 'namespace: team, annotations: {pilotlight.dev/adapter: "hf://a/b"}')
    (annotated,) = resolve(parse_documents(spec, "f.yaml")[0]).services
    placement = Placement(8080, "python")
    assert annotated.transformer is not None
    assert dict(pod_command(annotated.predictor, "r", placement).env)["PILOTLIGHT_ADAPTER"] == "hf://a/b"
    assert dict(pod_command(annotated.transformer, "r", placement).env)["PILOTLIGHT_ADAPTER"] == "hf://a/b"
    own = with_container(annotated.predictor, env=(EnvVar("PILOTLIGHT_ADAPTER", "hf://c/d"),))
    assert dict(pod_command(own, "r", placement).env)["PILOTLIGHT_ADAPTER"] == "hf://c/d", "the spec's own word wins"


def test_a_transformer_leases_nothing() -> None:
    assert not leases_engines(service().transformer)
