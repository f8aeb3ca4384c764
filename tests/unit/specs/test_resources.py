"""The applied YAML: what becomes a pod, what is reported and under which path."""

import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight_specs import ModelMount, parse_documents, read_documents, resolve
from pilotlight_specs.kpa import default_config

HEAD = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: demo
  annotations: {serving.kserve.io/deploymentMode: Knative}
"""
CUSTOM = """\
    containers:
    - name: kserve-container
      image: x/pilotlight-predictor:1
      command: [python, -m, pilotlight_predictor]
"""
RUNTIME = """\
---
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterServingRuntime
metadata: {name: cpu}
spec:
  supportedModelFormats: [{name: pilotlight, version: "1", autoSelect: true}]
  protocolVersions: [v2]
  containers:
  - name: kserve-container
    image: x/pilotlight-predictor:1
    command: [python, -m, pilotlight_predictor]
    args: ["--model_name={{.Name}}", --model_dir=/mnt/models]
    env: [{name: A, value: runtime}, {name: B, value: runtime}]
"""


def applied(*parts):
    documents, faults = parse_documents("\n".join(parts), "f.yaml")
    assert not faults
    return resolve(documents)


def isvc(predictor=CUSTOM, extra=""):
    return f"{HEAD}spec:\n  predictor:\n{predictor}{extra}"


def only(desired):
    assert not desired.errors, [str(error) for error in desired.errors]
    (service,) = desired.services
    return service


def paths(desired, severity):
    return {finding.path: finding.reason for finding in desired.findings if finding.severity == severity}


def indent(text, by=4):
    return textwrap.indent(textwrap.dedent(text).strip("\n") + "\n", " " * by)


# Custom predictors and transformers


def test_a_single_container_is_renamed_and_gets_the_service_name() -> None:
    container = only(
        applied(isvc("    containers: [{name: mine, image: x, command: [run], args: [--a]}]\n"))
    ).predictor.pod.container
    assert container.name == "kserve-container"
    assert (container.command, container.args) == (("run",), ("--a",))
    assert [(item.name, item.value) for item in container.env] == [("INFERENCE_SERVICE_NAME", "demo")]


def test_defaults_of_a_component() -> None:
    component = only(applied(isvc())).predictor
    assert (component.service_name, component.namespace) == ("demo-predictor", "default")
    assert (component.container_concurrency, component.timeout_s, component.canary_traffic_percent) == (0, 300, None)
    assert (component.progress_deadline_s, component.pod.termination_grace_period_s) == (600, 300)
    assert (component.scaling.min_scale, component.scaling.max_scale) == (1, 0)
    container = component.pod.container
    assert (container.port, container.protocol) == (8080, "http1")
    assert (container.readiness.kind, container.readiness.period_s) == ("tcp", 0)


TRANSFORMER = """
  transformer:
    containerConcurrency: 3
    containers:
    - image: x/pilotlight-transformer:1
      command: [python, -m, pilotlight_transformer]
      args: [{args}]
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "--model_name demo --predictor_host demo-predictor.default --http_port 8080 --workers 3"),
        (
            '"--model_name=other"',
            "--model_name=other --predictor_host demo-predictor.default --http_port 8080 --workers 3",
        ),
        ("--workers, '1'", "--workers 1 --model_name demo --predictor_host demo-predictor.default --http_port 8080"),
        (
            "--model_name_x=1",
            "--model_name_x=1 --model_name demo --predictor_host demo-predictor.default --http_port 8080 --workers 3",
        ),
    ],
)
def test_what_kserve_injects_into_a_transformer_only_when_absent(given, expected) -> None:
    service = only(applied(isvc(extra=TRANSFORMER.format(args=given).strip("\n") + "\n")))
    assert " ".join(service.transformer.pod.container.args) == expected
    assert [component.role for component in service.components] == ["transformer", "predictor"]


def test_workers_are_not_injected_without_container_concurrency() -> None:
    text = TRANSFORMER.format(args="").replace("    containerConcurrency: 3\n", "").strip("\n") + "\n"
    assert "--workers" not in only(applied(isvc(extra=text))).transformer.pod.container.args


def test_a_custom_container_names_its_model_in_the_environment() -> None:
    pod = only(applied(isvc(extra="      env: [{name: STORAGE_URI, value: 's3://b/m'}]\n"))).predictor.pod
    assert pod.mounts == (ModelMount("s3://b/m", "/mnt/models"),)
    assert ("STORAGE_URI", "/mnt/models") in [(item.name, item.value) for item in pod.container.env]


def test_of_several_containers_the_serving_one_runs_and_the_others_are_reported() -> None:
    containers = "    containers: [{name: side, image: x}, {name: kserve-container, image: y}]\n"
    desired = applied(isvc(containers))
    assert only(desired).predictor.pod.container.image == "y"
    assert "spec.predictor.containers[0]" in paths(desired, "unsupported")
    desired = applied(isvc("    containers: [{name: a, image: x}, {name: b, image: y}]\n"))
    assert "spec.predictor.containers" in paths(desired, "error")


# Scaling fields


def test_replicas_and_targets_become_knative_annotations() -> None:
    fields = indent("""
        minReplicas: 0
        maxReplicas: 5
        scaleTarget: 8
        scaleMetric: rps
        containerConcurrency: 4
        timeout: 120
        canaryTrafficPercent: 0
        annotations: {autoscaling.knative.dev/window: 10s, serving.knative.dev/progress-deadline: 20m}
    """)
    component = only(applied(isvc(extra=fields))).predictor
    annotations = dict(component.annotations)
    assert annotations["autoscaling.knative.dev/min-scale"] == "0"
    assert annotations["autoscaling.knative.dev/max-scale"] == "5"
    assert (component.scaling.metric, component.scaling.total, component.scaling.stable_window_s) == ("rps", 8, 10)
    assert (component.container_concurrency, component.timeout_s, component.canary_traffic_percent) == (4, 120, 0)
    assert component.progress_deadline_s == 1200
    assert component.scaling.activation_timeout_s == 1230


def test_annotations_of_the_service_reach_both_components_and_the_component_wins() -> None:
    text = isvc(
        extra=indent("annotations: {autoscaling.knative.dev/window: 10s}")
        + TRANSFORMER.format(args="").strip("\n")
        + "\n"
    )
    text = text.replace("{serving.kserve.io/deploymentMode: Knative}", "{autoscaling.knative.dev/window: 30s, a: b}")
    service = only(applied(text))
    assert service.predictor.scaling.stable_window_s == 10
    assert service.transformer.scaling.stable_window_s == 30
    assert dict(service.predictor.annotations)["a"] == "b"


def test_min_scale_annotations_are_overwritten_as_kserve_does_and_that_is_said() -> None:
    desired = applied(isvc(extra=indent("annotations: {autoscaling.knative.dev/minScale: '7'}")))
    assert only(desired).predictor.scaling.min_scale == 1
    path = 'spec.predictor.annotations["autoscaling.knative.dev/minScale"]'
    assert "minReplicas" in paths(desired, "warning")[path]


# Models and runtimes


MODEL = """\
    model:
      modelFormat: {name: pilotlight}
      protocolVersion: v2
      storageUri: hf://org/name
      args: [--more]
      env: [{name: B, value: isvc}, {name: C, value: isvc}]
"""


def test_a_model_runs_in_the_runtime_with_args_joined_and_env_merged() -> None:
    pod = only(applied(isvc(MODEL), RUNTIME)).predictor.pod
    assert pod.container.args == ("--model_name=demo", "--model_dir=/mnt/models", "--more")
    assert [(item.name, item.value) for item in pod.container.env] == [
        ("A", "runtime"),
        ("B", "isvc"),
        ("C", "isvc"),
        ("INFERENCE_SERVICE_NAME", "demo"),
    ]
    assert pod.mounts == (ModelMount("hf://org/name", "/mnt/models"),)


def variant(**changes):
    text = RUNTIME
    for old, new in changes.get("replace", []):
        assert old in text
        text = text.replace(old, new)
    return text


def image_of(desired):
    return only(desired).predictor.pod.container.image


def named(name, *, kind="ClusterServingRuntime", namespace="", extra=()):
    metadata = f"{{name: {name}, namespace: {namespace}}}" if namespace else f"{{name: {name}}}"
    return variant(
        replace=[
            ("ClusterServingRuntime", kind),
            ("metadata: {name: cpu}", f"metadata: {metadata}"),
            ("x/pilotlight-predictor:1", f"image-of-{name}"),
            *extra,
        ]
    )


def test_a_runtime_of_the_namespace_beats_a_cluster_runtime() -> None:
    local = named("local", kind="ServingRuntime", namespace="default")
    assert image_of(applied(isvc(MODEL), named("aaa"), local)) == "image-of-local"
    elsewhere = named("other", kind="ServingRuntime", namespace="elsewhere")
    assert image_of(applied(isvc(MODEL), named("zzz"), elsewhere)) == "image-of-zzz"


def test_priority_then_name_chooses_among_runtimes() -> None:
    high = named("zzz", extra=[("autoSelect: true", "autoSelect: true, priority: 2")])
    low = named("mmm", extra=[("autoSelect: true", "autoSelect: true, priority: 1")])
    assert image_of(applied(isvc(MODEL), low, named("aaa"), high)) == "image-of-zzz"
    assert image_of(applied(isvc(MODEL), named("bbb"), named("aaa"))) == "image-of-aaa"


@pytest.mark.parametrize(
    ("model", "runtime", "reason"),
    [
        (MODEL, "", "applied runtimes: none"),
        (MODEL, named("a", extra=[("autoSelect: true", "autoSelect: false")]), "no runtime with autoSelect"),
        (MODEL.replace("      protocolVersion: v2\n", ""), RUNTIME, "KServe assumes v1"),
        (MODEL.replace("name: pilotlight}", 'name: pilotlight, version: "2"}'), RUNTIME, "version '2'"),
        (MODEL.replace("name: pilotlight}", "name: onnx}"), RUNTIME, "'onnx'"),
        (MODEL + "      runtime: nope\n", RUNTIME, "no ServingRuntime default/nope"),
        (MODEL + "      runtime: cpu\n", named("cpu", extra=[("spec:", "spec:\n  disabled: true")]), "is disabled"),
        (MODEL.replace("v2", "v1") + "      runtime: cpu\n", RUNTIME, "does not speak v1, only v2"),
        (MODEL.replace("name: pilotlight}", "name: onnx}") + "      runtime: cpu\n", RUNTIME, "does not support"),
        (
            MODEL + "      runtime: cpu\n",
            named("cpu", extra=[("- name: kserve-container", "- name: something")]),
            "has no container named kserve-container",
        ),
    ],
)
def test_no_fitting_runtime_says_why(model, runtime, reason) -> None:
    desired = applied(isvc(model), runtime)
    assert not desired.services
    assert reason in paths(desired, "error")["spec.predictor.model.runtime"]


def test_an_explicit_runtime_needs_no_auto_select_and_no_protocol() -> None:
    model = MODEL.replace("      protocolVersion: v2\n", "") + "      runtime: cpu\n"
    runtime = named("cpu", extra=[("autoSelect: true", "autoSelect: false")])
    assert image_of(applied(isvc(model), runtime)) == "image-of-cpu"


@pytest.mark.parametrize(
    ("placeholder", "value"),
    [
        ("{{.Name}}", "demo"),
        ("{{ .Namespace }}", "default"),
        ("{{.Annotations.team}}", "red"),
        ('{{ index .Labels "a.b/c" }}', "blue"),
        ("{{.Labels.none}}", ""),
    ],
)
def test_placeholders_in_a_runtime(placeholder, value) -> None:
    runtime = variant(replace=[('"--model_name={{.Name}}"', f"'--x={placeholder}'")])
    text = isvc(MODEL).replace("annotations: {", "labels: {a.b/c: blue}\n  annotations: {team: red, ")
    assert only(applied(text, runtime)).predictor.pod.container.args[0] == f"--x={value}"


def test_an_unknown_placeholder_is_an_error() -> None:
    desired = applied(isvc(MODEL), variant(replace=[("{{.Name}}", "{{.Spec.Foo}}")]))
    assert "{{.Spec.Foo}}" in paths(desired, "error")["spec.predictor.model.runtime"]


def test_a_patched_probe_handler_replaces_the_runtimes_and_keeps_its_timing() -> None:
    runtime = RUNTIME + "    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 3}\n"
    model = MODEL + "      readinessProbe: {httpGet: {path: /ready}}\n"
    probe = only(applied(isvc(model), runtime)).predictor.pod.container.readiness
    assert (probe.kind, probe.path, probe.period_s) == ("http", "/ready", 3)


def test_storage_by_parameters_and_several_uris() -> None:
    model = MODEL.replace("storageUri: hf://org/name", "storage: {path: /a/b, parameters: {type: s3, bucket: models}}")
    assert only(applied(isvc(model), RUNTIME)).predictor.pod.mounts == (ModelMount("s3://models/a/b", "/mnt/models"),)
    uris = indent("storageUris: [{uri: hf://a/b}, {uri: hf://c/d, mountPath: /mnt/draft}]")
    assert only(applied(isvc(extra=uris))).predictor.pod.mounts == (
        ModelMount("hf://a/b", "/mnt/models"),
        ModelMount("hf://c/d", "/mnt/draft"),
    )
    clash = indent("storageUris: [{uri: hf://a/b}, {uri: hf://c/d}]")
    assert "same path" in paths(applied(isvc(extra=clash)), "error")["spec.predictor"]


def test_a_scheme_that_a_cluster_would_refuse_is_a_warning() -> None:
    desired = applied(isvc(MODEL.replace("hf://org/name", "bundled://demo-awq")), RUNTIME)
    only(desired)
    assert "bundled://" in paths(desired, "warning")["spec.predictor.model.storageUri"]


# Environment from ConfigMaps and Secrets

OBJECTS = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {level: info}
---
apiVersion: v1
kind: Secret
metadata: {name: token}
type: Opaque
data: {key: c2VjcmV0}
stringData: {plain: text}
"""


def env_of(lines):
    desired = applied(isvc(extra=indent(lines, 6)), OBJECTS)
    return desired, lambda: {item.name: item.value for item in only(desired).predictor.pod.container.env}


def test_env_from_applied_objects() -> None:
    _, env = env_of("""
        envFrom: [{configMapRef: {name: settings}, prefix: APP_}, {secretRef: {name: none, optional: true}}]
        env:
        - {name: KEY, valueFrom: {secretKeyRef: {name: token, key: key}}}
        - {name: PLAIN, valueFrom: {secretKeyRef: {name: token, key: plain}}}
        - {name: GONE, valueFrom: {configMapKeyRef: {name: settings, key: none, optional: true}}}
    """)
    assert env() == {
        "APP_level": "info",
        "KEY": "secret",
        "PLAIN": "text",
        "INFERENCE_SERVICE_NAME": "demo",
    }


def test_missing_keys_are_errors_and_secrets_stay_out_of_messages() -> None:
    desired, _ = env_of("""
        env:
        - {name: A, valueFrom: {secretKeyRef: {name: token, key: none}}}
        - {name: B, valueFrom: {configMapKeyRef: {name: none, key: x}}}
        - {name: C, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    """)
    errors = paths(desired, "error")
    assert "Secret default/token" in errors["spec.predictor.containers[0].env[0].valueFrom.secretKeyRef"]
    assert "apply it too" in errors["spec.predictor.containers[0].env[1].valueFrom.configMapKeyRef"]
    assert "spec.predictor.containers[0].env[2].valueFrom.fieldRef" in paths(desired, "unsupported")
    assert not any(
        "secret" in str(finding).replace("secretKeyRef", "")
        for finding in desired.findings
        if finding.severity == "error"
    )


# What is not honoured


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        ("nodeSelector: {gpu: a100}", "spec.predictor.nodeSelector"),
        ("tolerations: [{operator: Exists}]", "spec.predictor.tolerations"),
        ("securityContext: {runAsUser: 1}", "spec.predictor.securityContext"),
        ("serviceAccountName: me", "spec.predictor.serviceAccountName"),
        ("initContainers: [{name: a}]", "spec.predictor.initContainers"),
        (
            "volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]",
            "spec.predictor.volumes[0].persistentVolumeClaim",
        ),
        ("volumes: [{name: v, emptyDir: {medium: Memory}}]", "spec.predictor.volumes[0].emptyDir.medium"),
        ("scaleMetric: cpu", "spec.predictor.scaleMetric"),
        ("batcher: {maxBatchSize: 2}", "spec.predictor.batcher"),
    ],
)
def test_unsupported_pod_fields_by_path(lines, path) -> None:
    desired = applied(isvc(extra=indent(lines)))
    only(desired)
    assert path in paths(desired, "unsupported")


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        ("securityContext: {readOnlyRootFilesystem: true}", "spec.predictor.containers[0].securityContext"),
        ("lifecycle: {preStop: {exec: {command: [a]}}}", "spec.predictor.containers[0].lifecycle"),
        ("resources: {limits: {memory: 1Gi}}", "spec.predictor.containers[0].resources"),
        (
            'resources: {limits: {nvidia.com/gpu: "1"}}',
            'spec.predictor.containers[0].resources.limits["nvidia.com/gpu"]',
        ),
        ("readinessProbe: {httpGet: {port: 9}}", "spec.predictor.containers[0].readinessProbe.httpGet.port"),
    ],
)
def test_unsupported_container_fields_by_path(lines, path) -> None:
    desired = applied(isvc(extra=indent(lines, 6)))
    only(desired)
    assert path in paths(desired, "unsupported")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (isvc(extra="    minReplica: 1\n"), "spec.predictor.minReplica"),
        (isvc(extra="      arg: [a]\n"), "spec.predictor.containers[0].arg"),
        (isvc(extra="  predicter: {}\n"), "spec.predicter"),
        (isvc(extra="    timeoutSeconds: 5\n"), "spec.predictor.timeoutSeconds"),
        (
            isvc(extra="      readinessProbe: {httpGet: {}, period: 1}\n"),
            "spec.predictor.containers[0].readinessProbe.period",
        ),
        (
            isvc(extra="    annotations: {autoscaling.knative.dev/windows: 6s}\n"),
            'spec.predictor.annotations["autoscaling.knative.dev/windows"]',
        ),
    ],
)
def test_unknown_fields_by_path(text, path) -> None:
    assert path in paths(applied(text), "unknown")


def test_other_kinds_are_reported_and_left_out() -> None:
    desired = applied("apiVersion: v1\nkind: Service\nmetadata: {name: s}\n")
    assert "v1 Service" in paths(desired, "unsupported")["kind"]
    assert not desired.errors


def test_a_namespace_is_fine() -> None:
    assert not applied("apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n").findings


PROBED = CUSTOM + "      readinessProbe: {httpGet: {path: /v2/health/ready, port: 8080}}\n"


def test_a_clean_spec_has_no_findings() -> None:
    assert not applied(isvc(PROBED)).findings


def test_the_runtimes_readiness_probe_is_the_models() -> None:
    runtime = RUNTIME + "    readinessProbe: {httpGet: {path: /v2/health/ready, port: 8080}}\n"
    assert not [finding for finding in applied(isvc(MODEL), runtime).findings if "readinessProbe" in finding.path]
    (warning,) = [finding for finding in applied(isvc(MODEL), RUNTIME).findings if "readinessProbe" in finding.path]
    assert (warning.severity, warning.path) == ("warning", "spec.predictor.model.readinessProbe")


def test_a_container_without_a_readiness_probe_is_warned_about() -> None:
    warnings = paths(applied(isvc()), "warning")
    assert "/v2/health/ready" in warnings["spec.predictor.containers[0].readinessProbe"]


def test_the_deployment_mode_is_checked() -> None:
    mode = 'metadata.annotations["serving.kserve.io/deploymentMode"]'
    assert mode in paths(applied(isvc().replace("Knative", "RawDeployment")), "unsupported")
    assert mode in paths(applied(isvc().replace("Knative", "ModelMesh")), "error")
    assert not applied(isvc(PROBED).replace("Knative", "Serverless")).findings
    assert mode in paths(applied(isvc().replace("serving.kserve.io/deploymentMode: Knative", "")), "warning")


# Bad input


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        (isvc().replace("name: demo", "name: 1demo"), "metadata.name", "[a-z]"),
        (isvc().replace("name: demo", "name: Demo"), "metadata.name", "[a-z]"),
        (isvc().replace("name: demo", "name: " + "d" * 46), "metadata.name", "at most 45"),
        (isvc().replace("name: demo", "name: 12"), "metadata.name", "must be a string, was an integer"),
        (isvc().replace("name: demo", "name: demo\n  namespace: A_B"), "metadata.namespace", "DNS label"),
        (isvc(extra="    minReplicas: -1\n"), "spec.predictor.minReplicas", "[0, "),
        (isvc(extra="    minReplicas: '1'\n"), "spec.predictor.minReplicas", "must be an integer, was a string"),
        (isvc(extra="    minReplicas: true\n"), "spec.predictor.minReplicas", "must be an integer"),
        (
            isvc(extra="    minReplicas: 3\n    maxReplicas: 2\n"),
            "spec.predictor.maxReplicas",
            "at least minReplicas (3)",
        ),
        (isvc(extra="    canaryTrafficPercent: 101\n"), "spec.predictor.canaryTrafficPercent", "[0, 100], was 101"),
        (isvc(extra="    containerConcurrency: 1001\n"), "spec.predictor.containerConcurrency", "[0, 1000]"),
        (isvc(extra="    scaleMetric: gpu\n"), "spec.predictor.scaleMetric", "must be cpu, memory, concurrency or rps"),
        (isvc(extra="    annotations: {autoscaling.knative.dev/window: 1s}\n"), "spec.predictor", "[6s, 1h]"),
        (isvc(extra="    annotations: {a: 1}\n"), "spec.predictor.annotations.a", "put it in quotes"),
        (isvc(extra="      args: [1]\n"), "spec.predictor.containers[0].args[0]", "put it in quotes"),
        (isvc(extra="      args: all\n"), "spec.predictor.containers[0].args", "must be a list"),
        (isvc(extra="      env: [{name: A, value: 1}]\n"), "spec.predictor.containers[0].env[0].value", "in quotes"),
        (isvc(extra="      env: [{value: x}]\n"), "spec.predictor.containers[0].env[0].name", "required"),
        (isvc(extra="      env: [{name: PORT, value: x}]\n"), "spec.predictor.containers[0].env[0].name", "reserved"),
        (isvc(extra="      env: [{name: 1a, value: x}]\n"), "spec.predictor.containers[0].env[0].name", "must match"),
        (isvc(extra="      env: [x]\n"), "spec.predictor.containers[0].env[0]", "must be a mapping"),
        (
            isvc(extra="      ports: [{containerPort: 1}, {containerPort: 2}]\n"),
            "spec.predictor.containers[0].ports",
            "one container port",
        ),
        (
            isvc(extra="      ports: [{containerPort: 1, name: grpc}]\n"),
            "spec.predictor.containers[0].ports[0].name",
            "h2c, http1",
        ),
        (
            isvc(extra="      ports: [{containerPort: 70000}]\n"),
            "spec.predictor.containers[0].ports[0].containerPort",
            "[1, 65535]",
        ),
        (
            isvc(extra="      readinessProbe: {tcpSocket: {}, httpGet: {}}\n"),
            "spec.predictor.containers[0].readinessProbe",
            "only one of",
        ),
        (
            isvc(extra="      volumeMounts: [{name: v, mountPath: /a}]\n"),
            "spec.predictor.containers[0].volumeMounts[0]",
            "no volume 'v'",
        ),
        (isvc(CUSTOM + MODEL), "spec.predictor", "exactly one of model and containers"),
        (isvc("    minReplicas: 0\n"), "spec.predictor", "exactly one of model and containers"),
        (isvc("    sklearn: {storageUri: x}\n"), "spec.predictor.sklearn", "modelFormat.name: sklearn"),
        (
            isvc(MODEL.replace("      modelFormat: {name: pilotlight}\n", "")),
            "spec.predictor.model.modelFormat",
            "required",
        ),
        (isvc(MODEL.replace("v2", "v9")), "spec.predictor.model.protocolVersion", "must be one of"),
        (f"{HEAD}spec: {{}}\n", "spec.predictor", "required"),
        (HEAD, "spec", "required"),
        (isvc().replace("v1beta1", "v1"), "apiVersion", "serving.kserve.io/v1beta1"),
        ("kind: InferenceService\nmetadata: {name: a}\nspec: {}\n", "", "apiVersion and kind"),
        (isvc(extra="  transformer: {minReplicas: 0}\n"), "spec.transformer.containers", "required"),
        (isvc(extra="  transformer: [a]\n"), "spec.transformer", "must be a mapping"),
    ],
)
def test_errors_name_path_and_rule(text, path, reason) -> None:
    desired = applied(text)
    assert not desired.services
    assert reason in paths(desired, "error").get(path, f"nothing at {path}: {[str(item) for item in desired.errors]}")


def test_all_errors_come_at_once_and_name_file_document_and_object() -> None:
    other = isvc(extra="    scaleMetric: a\n").replace("name: demo", "name: other")
    desired = applied(isvc(extra="    minReplicas: -1\n    timeout: x\n"), "---", other)
    assert len(desired.errors) == 3
    assert str(desired.errors[2]).startswith(
        "error: f.yaml:27: InferenceService default/other: spec.predictor.scaleMetric: "
    )


def test_an_error_in_one_endpoint_leaves_the_others_alone() -> None:
    other = isvc().replace("name: demo", "name: other")
    desired = applied(isvc(extra="    minReplicas: -1\n"), "---", other)
    assert [service.name for service in desired.services] == ["other"]


def test_the_same_object_twice_is_an_error_of_the_second() -> None:
    desired = applied(isvc(), "---", isvc())
    assert len(desired.services) == 1
    assert "f.yaml:1;" in paths(desired, "error")["metadata.name"]


def test_an_empty_dir_is_mounted() -> None:
    lines = "      volumeMounts: [{name: tmp, mountPath: /tmp/}]\n    volumes: [{name: tmp, emptyDir: {}}]\n"
    (mount,) = only(applied(isvc(extra=lines))).predictor.pod.empty_dirs
    assert (mount.name, mount.mount_path) == ("tmp", "/tmp")


# Files


def test_bad_yaml_names_the_line() -> None:
    _, (fault,) = parse_documents("a: 1\nb: [\n", "f.yaml")
    assert "f.yaml" in str(fault)
    assert "line 3" in str(fault)


def test_documents_that_are_no_objects() -> None:
    documents, (fault,) = parse_documents("---\n---\n- a\n", "f.yaml")
    assert not documents
    assert "must be a Kubernetes object, was a list" in fault.reason


def test_a_list_is_its_items() -> None:
    documents, _ = parse_documents("kind: List\napiVersion: v1\nitems: [{kind: A}, {kind: B}]\n", "f.yaml")
    assert [document.data["kind"] for document in documents] == ["A", "B"]


def test_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("kind: B\n---\nkind: C\n")
    (tmp_path / "a.yml").write_text("kind: A\n")
    (tmp_path / "note.txt").write_text("no")
    (tmp_path / "empty").mkdir()
    documents, faults = read_documents([tmp_path, tmp_path / "none.yaml", tmp_path / "empty"])
    assert [(document.place, document.data["kind"]) for document in documents] == [
        ("a.yml:1", "A"),
        ("b.yaml:1", "B"),
        ("b.yaml:3", "C"),
    ]
    assert ["cannot be read" in fault.reason for fault in faults] == [True, False]
    assert "no *.yaml" in faults[1].reason


def test_two_hundred_endpoints_are_resolved() -> None:
    text = "---\n".join(isvc().replace("name: demo", f"name: demo-{index}") for index in range(200))
    assert len(applied(text).services) == 200


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.floats(allow_nan=False))
KEYS = """name model containers env value valueFrom ports args readinessProbe httpGet minReplicas annotations volumes
    emptyDir modelFormat runtime storage storageUris resources limits secretKeyRef transformer predictor"""
keys = st.sampled_from(KEYS.split())
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=25
)


@settings(max_examples=200, deadline=None)
@given(spec=trees)
def test_no_shape_of_yaml_raises(spec) -> None:
    import yaml

    document = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "demo"},
        "spec": {"predictor": spec, "transformer": spec},
    }
    documents, _ = parse_documents(yaml.safe_dump(document), "f.yaml")
    desired = resolve(documents, default_config())
    assert bool(desired.services) != bool(desired.errors)
