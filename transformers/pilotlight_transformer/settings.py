"""The command line: the arguments KServe injects, and our own. The environment is a parameter here.

`python -m pilotlight_transformer.settings` says of command lines on its standard input what would be refused,
and what the others mean.
"""

from __future__ import annotations

import argparse
import os.path
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pilotlight_protocol.adapters import ADAPTER_VARIABLE
from pilotlight_protocol.deadlines import REQUEST_TIMEOUT_S
from pilotlight_protocol.endpoint_directory import TextFiles, TransformerMeaning
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.model_reference import parse_model_reference
from pilotlight_serving.command_line import IsDirectory, answer_checks, parse_known
from pilotlight_text.answer_parts.format_choice import AS_THE_TEMPLATE_SAYS, NamedParsers
from pilotlight_text.answer_parts.format_names import known_reasoning_parser, known_tool_parser
from pilotlight_wire.cors import EVERY_ORIGIN, CorsPolicy, allowed_origins

MOUNTED_MODEL_DIR = "/mnt/models"

PredictorProtocol = Literal["v2", "grpc-v2"]


@dataclass(frozen=True, slots=True)
class TransformerSettings:
    """`model_uri` is a URI or a directory; only tokenizer files of it are read. `ignored`: KServe's and
    vLLM's, without effect. `environment`: the store's settings, and secrets with them."""

    model_name: str
    model_uri: str
    predictor_host: str
    predictor_protocol: PredictorProtocol = "v2"
    predictor_use_ssl: bool = False
    predictor_request_timeout_s: float = REQUEST_TIMEOUT_S
    connect_timeout_s: float = 10.0
    http_port: int = 8080
    max_model_len: int | None = None
    lora_names: tuple[str, ...] = ()
    adapter_uri: str = ""
    drain_timeout_s: float = REQUEST_TIMEOUT_S
    model_control: bool = False
    max_concurrent_requests: int = 1024
    max_body_bytes: int = 16 * 1024 * 1024
    cors: CorsPolicy = EVERY_ORIGIN
    workers: int = 1
    parsers: NamedParsers = AS_THE_TEMPLATE_SAYS
    ignored: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


def parse_settings(
    arguments: Sequence[str], environment: Mapping[str, str], is_directory: IsDirectory = os.path.isdir
) -> TransformerSettings:
    """Exits with a usage message when a required argument is missing, unknown, or has a value that is none."""
    parser = command_line(environment)
    given, ignored = parse_known(parser, arguments)
    model_uri = given.model_uri or given.model_dir or (MOUNTED_MODEL_DIR if is_directory(MOUNTED_MODEL_DIR) else None)
    if model_uri is None:
        parser.error(f"give --model_uri or --model_dir (or mount a model at {MOUNTED_MODEL_DIR}) for the tokenizer")
    try:
        if given.adapter:
            parse_model_reference(given.adapter)
    except InvalidInput as error:
        parser.error(f"--adapter: {error.message}")
    return TransformerSettings(
        model_name=given.model_name,
        model_uri=model_uri,
        predictor_host=given.predictor_host,
        predictor_protocol="grpc-v2" if given.predictor_protocol == "grpc-v2" else "v2",
        predictor_use_ssl=given.predictor_use_ssl,
        predictor_request_timeout_s=given.predictor_request_timeout_seconds,
        connect_timeout_s=given.connect_timeout_s,
        http_port=given.http_port,
        max_model_len=given.max_model_len,
        adapter_uri=given.adapter,
        lora_names=tuple(module.partition("=")[0] for module in given.lora_module),
        drain_timeout_s=given.drain_timeout_s,
        model_control=given.model_control == "explicit",
        max_concurrent_requests=given.max_concurrent_requests,
        max_body_bytes=given.max_body_bytes,
        cors=given.allowed_origins,
        workers=given.workers,
        parsers=NamedParsers(given.tool_parser, given.reasoning_parser),
        ignored=(*ignored, *(["--enable-auto-tool-choice"] if given.auto_tool_choice else [])),
        environment=environment,
    )


def command_line(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pilotlight_transformer", description=__doc__, allow_abbrev=False, add_help=True
    )
    add = parser.add_argument
    add("--model_name", required=True, help="the name the model is served under")
    add("--model_dir", help=f"directory with the model's tokenizer.json (default: {MOUNTED_MODEL_DIR} when it exists)")
    add("--model_uri", help="hf://org/name[:revision], file:///dir or bundled://name; tokenizer files only are read")
    add("--predictor_host", required=True, metavar="HOST[:PORT]", help="where the predictor answers")
    add("--predictor_protocol", default="v2", choices=("v1", "v2", "grpc-v2"), help="v1 is read as v2")
    add("--predictor_use_ssl", type=_truth, default=False, metavar="BOOL")
    add(
        "--predictor_request_timeout_seconds",
        type=_positive,
        default=REQUEST_TIMEOUT_S,
        help="the longest silence of the predictor, from the request to the first byte and between bytes",
    )
    add("--connect_timeout_s", type=_positive, default=10.0, help="deadline for a connection to the predictor")
    add("--http_port", type=int, default=int(environment.get("PORT") or 8080), help="default: $PORT, else 8080")
    add("--max_model_len", type=int, default=None, help="context length in tokens, where config.json is not to decide")
    add(
        "--lora_module",
        action="append",
        default=[],
        metavar="NAME[=DIR]",
        help="an adapter that the predictor serves, in the predictor's spelling; only the name is read",
    )
    add(
        "--adapter",
        default=environment.get(ADAPTER_VARIABLE, ""),
        metavar="URI",
        help="the predictor's LoRA adapter: a chat template in its folder is used instead of the base's",
    )
    add("--model_control", choices=("none", "explicit"), default="none", help="let clients load and unload the model")
    add(
        "--drain_timeout_s",
        type=_positive,
        default=REQUEST_TIMEOUT_S,
        help="how long requests in flight may go on after SIGTERM; the timeout of the spec",
    )
    add("--max_concurrent_requests", type=int, default=1024)
    add("--max_body_bytes", type=int, default=16 * 1024 * 1024)
    add(
        "--allowed_origins",
        type=allowed_origins,
        default="*",
        help="web origins that may call, or '' for none",
    )
    add("--workers", type=int, default=1, help="KServe sets it to containerConcurrency; one process serves them all")
    add(
        "--tool_parser",
        "--tool-call-parser",
        type=_name_of(known_tool_parser),
        metavar="NAME",
        help="how the model writes calls, by vLLM's name of the parser (default: as its chat template says)",
    )
    add(
        "--reasoning_parser",
        "--reasoning-parser",
        type=_name_of(known_reasoning_parser),
        metavar="NAME",
        help="how the model writes reasoning, by vLLM's name of the parser (default: as its chat template says)",
    )
    add(
        "--enable-auto-tool-choice",
        action="store_true",
        dest="auto_tool_choice",
        help="vLLM's; changes nothing: calls are read wherever the model writes them",
    )
    return parser


def _name_of(known: Callable[[str], str]) -> Callable[[str], str]:
    def name(text: str) -> str:
        try:
            return known(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return name


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def _truth(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "yes")


def meaning(settings: TransformerSettings) -> TransformerMeaning:
    text = TextFiles(
        settings.model_uri,
        settings.adapter_uri,
        settings.max_model_len,
        settings.parsers.calls,
        settings.parsers.reasoning,
    )
    return TransformerMeaning(settings.model_name, settings.lora_names, text)


if __name__ == "__main__":
    answer_checks(parse_settings, sys.stdin, lambda text: print(text, flush=True), os.path.isdir, meaning)
