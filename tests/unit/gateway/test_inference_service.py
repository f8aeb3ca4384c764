"""The InferenceService of a tenant's words: a cluster takes it, and the components read what was asked for."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pilotlight_gateway.endpoints.endpoint_spec import EndpointSpec
from pilotlight_gateway.endpoints.inference_service import inference_service
from pilotlight_local.pods.pod_command import Placement, leases_engines, pod_command
from pilotlight_predictor import arguments as predictor_arguments
from pilotlight_protocol.endpoint_directory import PredictorMeaning
from pilotlight_specs import Component, Document, resolve
from pilotlight_text.answer_parts.format_names import CALLS, REASONING
from pilotlight_transformer import settings as transformer_settings

URIS = st.sampled_from(
    ["hf://org/name@main", "bundled://demo-awq", "https://a.example/$(PORT)/$$x/{{.Name}}?a=b&c='d'", "s3://b/-x=y"]
)
COUNTS = st.integers(1, 9)
SPECS = st.builds(
    EndpointSpec,
    name=st.sampled_from(["chat", "a-0"]),
    model=URIS,
    adapter=st.just("") | URIS,
    quantization=st.sampled_from(["auto", "awq", "none"]),
    max_model_len=st.none() | COUNTS,
    enforce_eager=st.booleans(),
    tool_parser=st.none() | st.sampled_from(sorted(CALLS)),
    reasoning_parser=st.none() | st.sampled_from(sorted(REASONING)),
    isolation=st.none() | st.sampled_from(["shared", "reset", "dedicated"]),
    front=st.sampled_from(["auto", "shared", "pods"]),
    max_prompt_tokens=st.none() | COUNTS,
    max_output_tokens=st.none() | COUNTS,
    max_queue=st.none() | COUNTS,
    min_replicas=st.integers(0, 1),
    max_replicas=COUNTS,
    scale_target=COUNTS,
    scale_window_s=st.integers(6, 99),
    timeout_s=st.sampled_from([1, 300, 600]),
)


def resolved(spec: EndpointSpec) -> tuple[Component, Component]:
    manifest = inference_service(spec, "team")
    found = resolve([Document("order", manifest.data)])
    # What only a cluster holds a container to.
    assert {finding.path.rpartition(".")[2] for finding in found.findings} <= {"resources"}
    (service,) = found.services
    assert (service.namespace, service.name) == ("team", spec.name)
    assert service.transformer is not None
    return service.predictor, service.transformer


def command_of(component: Component) -> tuple[list[str], dict[str, str]]:
    made = pod_command(component, "r-1", Placement(1234, "python"))
    return list(made.argv[3:]), dict(made.env)


@given(SPECS)
def test_its_components_read_what_was_asked_for(spec: EndpointSpec) -> None:
    predictor, transformer = resolved(spec)
    assert leases_engines(predictor)
    given_ = predictor_arguments.parse(*command_of(predictor))
    lease, bounds = predictor_arguments.lease_wish(given_), predictor_arguments.bounds_of(given_)
    assert isinstance(PredictorMeaning(lease, bounds), PredictorMeaning)
    assert (lease.model, lease.model_name, lease.adapter) == (spec.model, spec.name, spec.adapter)
    assert (lease.quantization, lease.isolation) == (spec.quantization, spec.isolation)
    wanted = {} if spec.max_model_len is None else {"max_model_len": str(spec.max_model_len)}
    assert lease.engine_args == wanted | ({"enforce_eager": "true"} if spec.enforce_eager else {})
    assert (bounds.max_prompt_tokens, bounds.max_output_tokens) == (spec.max_prompt_tokens, spec.max_output_tokens)
    assert bounds.max_queue == (spec.max_queue or 256)
    text = transformer_settings.parse_settings(*command_of(transformer))
    assert (text.model_name, text.model_uri, text.adapter_uri) == (spec.name, spec.model, spec.adapter)
    assert text.max_model_len == spec.max_model_len
    assert (text.parsers.calls, text.parsers.reasoning) == (spec.tool_parser, spec.reasoning_parser)
    for component in (predictor, transformer):
        assert (component.scaling.min_scale, component.scaling.max_scale) == (spec.min_replicas, spec.max_replicas)
        assert component.timeout_s == spec.timeout_s
    assert given_.drain_timeout_s == text.drain_timeout_s == text.predictor_request_timeout_s == spec.timeout_s


@given(SPECS)
def test_every_argument_knows_the_tenants_word(spec: EndpointSpec) -> None:
    manifest = inference_service(spec, "team")
    for role in ("predictor", "transformer"):
        args: list[str] = manifest.data["spec"][role]["containers"][0]["args"]
        for place, arg in enumerate(args):
            field = manifest.field_at(f"spec.{role}.containers[0].args[{place}]")
            assert field is not None
            value: Any = getattr(spec, field)
            assert str(value).lower() in arg.replace("$$", "$").lower()
    assert manifest.field_at("spec.predictor.maxReplicas") == "max_replicas"
    assert manifest.field_at("spec.predictor.containers[0]") is None
