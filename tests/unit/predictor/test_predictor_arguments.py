"""The predictor's command line: what KServe injects passes, what is wrong is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotlight_predictor.arguments import parse
from pilotlight_protocol.deadlines import REQUEST_TIMEOUT_S


def test_kserves_injected_arguments_pass() -> None:
    args = parse(["--model_name", "m", "--workers=3", "--grpc_port", "9", "--predictor_protocol", "v2"], {})
    assert (args.model_name, args.http_port, args.model) == ("m", 8080, "/mnt/models")
    assert args.ignored == ("--workers", "--grpc_port", "--predictor_protocol")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--max-model-len=256", "if it is vLLM's, write --engine_arg=max_model_len=256"),
        ("--max_sequnces=4", "did you mean --max_sequences?"),
        ("--max-sequences=4", "did you mean --max_sequences?"),
        ("--tensor-parallel-size 2", "write --engine_arg=tensor_parallel_size=2"),
        ("--enable-auto-tool-choice", "write --engine_arg=enable_auto_tool_choice"),
        ("serve", "serve"),
        ("--workers=3 extra", "extra"),
        ("--engine_arg=model=x", "cannot be set"),
        ("--engine_arg=1x", "is not an engine argument"),
    ],
)
def test_unknown_arguments_are_refused_with_what_was_meant(
    given: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--model_name=m", *given.split()], {})
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_all_unknown_arguments_come_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--max-model-len=256", "--max_sequnces=4"], {})
    assert {"--max-model-len", "--max_sequnces"} <= set(capsys.readouterr().err.replace(";", " ").split())


def test_port_and_name_come_from_the_environment() -> None:
    args = parse(["--model_uri", "bundled://demo-awq"], {"PORT": "9000", "INFERENCE_SERVICE_NAME": "isvc"})
    assert (args.http_port, args.model_name, args.model) == (9000, "isvc", "bundled://demo-awq")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model_dir", "/a", "--model_uri", "hf://a/b"], "not both"),
        (["--kv_watermark", "1.5"], "kv_watermark"),
        (["--max_batch", "0"], "max_batch"),
        (["--quantization", "gguf"], "invalid choice"),
        (["--lora_module", "adapter"], "NAME=DIRECTORY"),
        (["--lora_module", "adapter=/nowhere/at/all"], "no directory"),
        (["--adapter", "oci://registry/adapter"], "oci:// are not supported"),
        (["--adapter", "hf://a/b", "--lora_module", "x=/y"], "give --adapter, with which everything is answered, or"),
    ],
)
def test_wrong_values_are_named(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(argv, {})
    assert words in capsys.readouterr().err


def test_lora_modules(tmp_path: Path) -> None:
    assert parse(["--lora_module", f"a={tmp_path}"], {}).loras == (("a", str(tmp_path)),)


def test_an_adapter_comes_by_flag_or_by_the_annotations_variable() -> None:
    assert parse([], {}).adapter == ""
    assert parse([], {"PILOTLIGHT_ADAPTER": "hf://a/b"}).adapter == "hf://a/b"
    assert parse(["--adapter=s3://bucket/a"], {"PILOTLIGHT_ADAPTER": "hf://a/b"}).adapter == "s3://bucket/a"


def test_a_drain_takes_as_long_as_a_request_may() -> None:
    assert parse([], {}).drain_timeout_s == REQUEST_TIMEOUT_S


@pytest.mark.parametrize(
    ("argv", "environment", "tenant"),
    [
        ([], {}, "default"),
        ([], {"POD_NAMESPACE": "web"}, "web"),
        ([], {"POD_NAMESPACE": "web", "PILOTLIGHT_TENANT": "acme"}, "acme"),
        (["--tenant=b"], {"PILOTLIGHT_TENANT": "acme"}, "b"),
        ([], {"PILOTLIGHT_POOL_KEY": "k", "POD_NAMESPACE": "web"}, None),
        ([], {"PILOTLIGHT_POOL_KEY": "k", "PILOTLIGHT_TENANT": "acme"}, "acme"),
        (["--tenant=b"], {"PILOTLIGHT_POOL_KEY": "k"}, "b"),
    ],
)
def test_whose_leases_they_are_is_the_keys_to_say(
    argv: list[str], environment: dict[str, str], tenant: str | None
) -> None:
    assert parse(argv, environment).tenant == tenant
