"""The predictor's command line. The environment is an argument; what is unknown and not KServe's is refused.

`python -m pilotlight_predictor.arguments` says of command lines on its standard input what would be refused,
and what the others mean.
"""

from __future__ import annotations

import argparse
import os.path
import sys
from collections.abc import Mapping, Sequence
from typing import get_args

from pilotlight_engine.engine_arguments import parse_engine_args
from pilotlight_engine.leasing.pool_http import check_pool_url
from pilotlight_engine.quantization import Requested
from pilotlight_protocol.adapters import ADAPTER_VARIABLE
from pilotlight_protocol.deadlines import REQUEST_TIMEOUT_S
from pilotlight_protocol.endpoint_directory import PredictorMeaning, RequestBounds
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.leases import POOL_URL_VARIABLE, PREWARM_VARIABLE, TENANT_VARIABLE, LeaseRequest
from pilotlight_protocol.model_reference import parse_model_reference
from pilotlight_serving.command_line import IsDirectory, answer_checks, parse_known
from pilotlight_wire.cors import allowed_origins

ENGINE_ARGS_VARIABLE = "PILOTLIGHT_ENGINE_ARGS"
POOL_KEY_VARIABLE = "PILOTLIGHT_POOL_KEY"
# A lease is gone for good after a deadline this long; the API takes no longer one.
LEASE_DEADLINE_MAX_S = 3600.0
DEFAULT_MODEL_DIR = "/mnt/models"


def parse(
    argv: Sequence[str], environment: Mapping[str, str], is_directory: IsDirectory = os.path.isdir
) -> argparse.Namespace:
    """Exits with a usage message for a value that is wrong, as argparse does."""
    parser = command_line(environment)
    args, ignored = parse_known(parser, argv, _engine_argument)
    args.ignored = ignored
    if args.model_dir and args.model_uri:
        parser.error("give --model_dir or --model_uri, not both")
    if not 0 < args.kv_watermark <= 1:
        parser.error(f"--kv_watermark must be in (0, 1], not {args.kv_watermark}")
    for name in ("max_body_bytes", "max_batch", "max_queue", "max_sequences"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.pool_url:
        try:
            check_pool_url(args.pool_url)
        except InvalidInput as error:
            parser.error(error.message)
    for name in ("lease_deadline_s", "startup_deadline_s"):
        if not 0 < getattr(args, name) <= LEASE_DEADLINE_MAX_S:
            parser.error(f"--{name} must be in (0, {LEASE_DEADLINE_MAX_S:g}], not {getattr(args, name):g}")
    for name in ("lease_idle_s", "resume_deadline_s", "max_resumes"):
        if getattr(args, name) < 0:
            parser.error(f"--{name} must not be negative")
    if not args.tenant:
        # A lease key is a tenant's own: the pool knows whose.
        args.tenant = None if args.pool_key else environment.get("POD_NAMESPACE") or "default"
    args.model = args.model_uri or args.model_dir or DEFAULT_MODEL_DIR
    if args.adapter and args.lora_module:
        parser.error("give --adapter, with which everything is answered, or --lora_module, which requests choose from")
    try:
        if args.adapter:
            parse_model_reference(args.adapter)
    except InvalidInput as error:
        parser.error(f"--adapter: {error.message}")
    args.loras = tuple(_lora(parser, given, is_directory) for given in args.lora_module)
    try:
        args.engine_args = parse_engine_args(args.engine_arg, environment.get(ENGINE_ARGS_VARIABLE, ""))
    except InvalidInput as error:
        parser.error(error.message)
    return args


def _engine_argument(name: str, value: str) -> str:
    return f"; if it is vLLM's, write --engine_arg={name}{f'={value}' if value else ''}"


def _lora(parser: argparse.ArgumentParser, given: str, is_directory: IsDirectory) -> tuple[str, str]:
    name, separator, path = given.partition("=")
    if not (name and separator and path):
        parser.error(f"--lora_module must be NAME=DIRECTORY, not '{given}'")
    if not is_directory(path):
        parser.error(f"--lora_module {name}: there is no directory {path}")
    return name, path


def command_line(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pilotlight_predictor",
        description="Serves one model over tokens: V2, generate and gRPC on one port, with an own or a lent engine.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model_name", default=environment.get("INFERENCE_SERVICE_NAME", "model"), help="the name in the paths")
    add("--model_dir", default=None, help=f"a mounted checkpoint; {DEFAULT_MODEL_DIR} when no model is named")
    add("--model_uri", default=None, help="bundled://name, file:///dir or hf://org/name[:revision]")
    add("--http_port", type=int, default=int(environment.get("PORT", "8080")), help="the one port, HTTP and gRPC")
    add("--host", default="", help="address to listen on; empty for all, IPv6 and IPv4")
    add("--quantization", default="auto", choices=get_args(Requested), help="refused when the device cannot do it")
    add("--engine_arg", action="append", default=[], metavar="K=V", help="a vLLM engine argument; may be repeated")
    add("--lora_module", action="append", default=[], metavar="NAME=DIR", help="an adapter; may be repeated")
    add(
        "--adapter",
        default=environment.get(ADAPTER_VARIABLE, ""),
        metavar="URI",
        help="a LoRA adapter with which everything is answered, written as --model_uri is",
    )
    add("--max_body_bytes", type=int, default=16 * 1024 * 1024, help="largest request body, unpacked")
    add(
        "--allowed_origins",
        type=allowed_origins,
        default="*",
        help="web origins that may call, or '' for none",
    )
    add("--max_prompt_tokens", type=int, default=None, help="longest prompt; the context length when not given")
    add("--max_output_tokens", type=int, default=None, help="most tokens per sequence; the context's rest if not given")
    add("--max_batch", type=int, default=64, help="most rows of input_ids in one request")
    add("--max_sequences", type=int, default=256, help="most rows times n in one request")
    add("--max_queue", type=int, default=256, help="sequences that may wait for a place in the engine's batch")
    add("--max_concurrent_requests", type=int, default=1024, help="requests in flight, HTTP and gRPC together")
    add("--kv_watermark", type=float, default=0.9, help="share of the KV cache that may be promised")
    add("--model_control", choices=("none", "explicit"), default="none", help="let clients load and unload the model")
    add(
        "--drain_timeout_s",
        type=float,
        default=REQUEST_TIMEOUT_S,
        help="how long requests in flight may go on after SIGTERM; the timeout of the spec",
    )
    add("--startup_deadline_s", type=float, default=600.0, help="an engine that is not ready by then is replaced")
    add("--max_resumes", type=int, default=3, help="engines a request may lose before it fails; 0: it fails at once")
    add("--resume_deadline_s", type=float, default=60.0, help="how long a request waits for another engine")
    pool_url = environment.get(POOL_URL_VARIABLE, "")
    add(
        "--pool_url",
        default=pool_url,
        help="lease engines there: http(s)://host:port or unix:///path; empty: start one",
    )
    add("--lease_idle_s", type=float, default=5.0, help="a lease without work for so long is given back")
    add("--lease_deadline_s", type=float, default=120.0, help="how long a request waits for a lease")
    add(
        "--tenant",
        default=environment.get(TENANT_VARIABLE),
        help="whose share of the pool the leases count against; the lease key's tenant, or the pod's namespace",
    )
    add("--priority", default="normal", choices=["interactive", "normal", "batch"], help="of the leases")
    add(
        "--isolation",
        default=None,
        choices=["shared", "reset", "dedicated"],
        help="of engines; the pool's own default",
    )
    add(
        "--prewarm",
        default=environment.get(PREWARM_VARIABLE),
        help='when the pool is to hold the model warm: "cron 55 8 * * 1-5 for 30m in UTC"; empty ends it',
    )
    add("--work_dir", default=None, help="where the engine may write (compile caches); chosen when not given")
    add("--log_level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.set_defaults(pool_key=environment.get(POOL_KEY_VARIABLE, ""))
    parser.epilog = (
        f"vLLM engine arguments are also read from ${ENGINE_ARGS_VARIABLE}, space-separated K=V; "
        f"the pool's lease key from ${POOL_KEY_VARIABLE}."
    )
    return parser


def lease_wish(args: argparse.Namespace) -> LeaseRequest:
    """What the predictor asks a warm pool for."""
    return LeaseRequest(
        model=args.model,
        model_name=args.model_name,
        tenant=args.tenant,
        priority=args.priority,
        engine_args=args.engine_args,
        quantization=args.quantization,
        loras=args.loras,
        isolation=args.isolation,
        prewarm=args.prewarm,
        adapter=args.adapter,
    )


def bounds_of(args: argparse.Namespace) -> RequestBounds:
    """What the predictor admits."""
    return RequestBounds(
        max_prompt_tokens=args.max_prompt_tokens,
        max_output_tokens=args.max_output_tokens,
        max_batch=args.max_batch,
        max_sequences=args.max_sequences,
        max_queue=args.max_queue,
        kv_watermark=args.kv_watermark,
        lease_wait_s=args.lease_deadline_s,
        lease_idle_s=args.lease_idle_s,
    )


def meaning(args: argparse.Namespace) -> PredictorMeaning:
    return PredictorMeaning(lease_wish(args), bounds_of(args))


if __name__ == "__main__":
    answer_checks(parse, sys.stdin, lambda text: print(text, flush=True), os.path.isdir, meaning)
