"""The command line as KServe writes it."""

from __future__ import annotations

import pytest

from pilotlight_protocol.deadlines import REQUEST_TIMEOUT_S
from pilotlight_text.answer_parts.format_choice import AS_THE_TEMPLATE_SAYS
from pilotlight_transformer.settings import parse_settings

REQUIRED = ["--model_name", "m", "--predictor_host", "m-predictor.ns", "--model_uri", "bundled://demo-awq"]


def test_what_kserve_injects_is_taken() -> None:
    settings = parse_settings([*REQUIRED, "--http_port", "8080", "--workers", "100", "--grpc_port", "8081"], {})
    assert (settings.http_port, settings.workers, settings.ignored) == (8080, 100, ("--grpc_port",))
    assert (settings.predictor_protocol, settings.predictor_use_ssl) == ("v2", False)
    assert settings.predictor_request_timeout_s == settings.drain_timeout_s == REQUEST_TIMEOUT_S


def test_the_port_of_knative() -> None:
    assert parse_settings(REQUIRED, {"PORT": "9000"}).http_port == 9000
    assert parse_settings([*REQUIRED, "--http_port=1"], {"PORT": "9000"}).http_port == 1


def test_ours_and_kserves_other_flags() -> None:
    flags = ["--predictor_protocol", "grpc-v2", "--predictor_use_ssl", "True", "--lora_module", "a=/x"]
    settings = parse_settings([*REQUIRED, *flags, "--lora_module=b", "--predictor_request_timeout_seconds", "5"], {})
    assert (settings.predictor_protocol, settings.predictor_use_ssl) == ("grpc-v2", True)
    assert (settings.lora_names, settings.predictor_request_timeout_s) == (("a", "b"), 5.0)


def test_parsers_are_named_as_vllm_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser=qwen3"]
    settings = parse_settings([*REQUIRED, *flags], {})
    assert (settings.parsers.calls, settings.parsers.reasoning) == ("hermes", "qwen3")
    assert settings.ignored == ("--enable-auto-tool-choice",)
    assert parse_settings(REQUIRED, {}).parsers == AS_THE_TEMPLATE_SAYS
    with pytest.raises(SystemExit):
        parse_settings([*REQUIRED, "--tool-call-parser=hermesse"], {})
    assert "no tool parser 'hermesse'; did you mean hermes?; known are deepseek_v3, " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        REQUIRED[:4],
        [*REQUIRED, "--max_model_length=9"],
        [*REQUIRED, "more"],
        [*REQUIRED, "--predictor_request_timeout_seconds=0"],
        [*REQUIRED, "--http_port=x"],
        [*REQUIRED, "--reasoning_parser=hermes"],
    ],
)
def test_what_cannot_work_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_settings(arguments, {})
    assert caught.value.code == 2
