"""`python -m pilotlight_predictor`: the predictor's composition root, the only place that reads the environment.

The order matters for a cold start: the port is bound first (early clients wait in its backlog), then the engine
starts, and the web stack is imported while it boots.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import uvloop
from pilotlight_protocol.errors import PilotlightError
from pilotlight_serving.log_lines import log_to_stderr
from pilotlight_serving.one_port import listen
from pilotlight_serving.settings import ServerSettings

from pilotlight_predictor import arguments, engine_args, model_source
from pilotlight_predictor.engine.assembly import EngineSettings, child_provider
from pilotlight_predictor.engine.child import ChildEngineProvider
from pilotlight_predictor.engine_holder import EngineHolder, PhasedProvider
from pilotlight_predictor.engine_queue import QueueLimits
from pilotlight_predictor.model_engine_provider import ModelEngineProvider
from pilotlight_predictor.token_requests import RequestLimits
from pilotlight_predictor.tokens_model import TokensModel

_log = logging.getLogger("pilotlight.predictor")


def main(engine_provider: Callable[[Namespace], PhasedProvider] | None = None) -> int:
    """`engine_provider`: where engines come from; a child process of vLLM when None."""
    args = arguments.parse(sys.argv[1:], os.environ)
    log_to_stderr(args.log_level)
    try:
        listener = listen(args.host, args.http_port)
    except OSError as error:
        _log.error("cannot listen on port %d: %s", args.http_port, error)
        return 1
    try:
        status: int = uvloop.run(_serve(args, listener, engine_provider or _provider))
    except PilotlightError as error:
        _log.error("%s", error.message)
        return 1
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    return status


async def _serve(
    args: Namespace, listener: socket.socket, engine_provider: Callable[[Namespace], PhasedProvider]
) -> int:
    task = asyncio.current_task()
    assert task is not None
    # As PID 1 a signal without a handler is ignored; the server replaces this one when it starts.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    holder = EngineHolder(engine_provider(args))
    model = TokensModel(
        args.model_name,
        holder,
        RequestLimits(args.max_prompt_tokens, args.max_output_tokens, args.max_batch, args.max_sequences),
        QueueLimits(args.max_queue, args.kv_watermark),
        [name for name, _ in args.loras],
    )
    settings = ServerSettings(
        http_port=args.http_port,
        max_body_bytes=args.max_body_bytes,
        max_concurrent_requests=args.max_concurrent_requests,
        drain_timeout_s=args.drain_timeout_s,
    )
    async with _held(holder) as holding:
        serving = await asyncio.to_thread(importlib.import_module, "pilotlight_serving.server")
        server = serving.Server(model, settings, listener)
        # An engine that can never start ends the process, so that the platform shows why and backs off.
        holding.add_done_callback(lambda _: server.stop())
        status: int = await server.serve(contextlib.nullcontext())
        if holding.done():
            await holding
        return status


@contextlib.asynccontextmanager
async def _held(holder: EngineHolder) -> AsyncIterator[asyncio.Task[None]]:
    holding = asyncio.create_task(holder.run())
    try:
        yield holding
    finally:
        holding.cancel()
        await asyncio.wait({holding})


def _provider(args: Namespace) -> ModelEngineProvider:
    given_args = engine_args.parse_engine_args(args.engine_arg, os.environ.get(arguments.ENGINE_ARGS_VARIABLE, ""))

    def fetch() -> Path:
        return model_source.resolve(args.model)

    def provide(model_dir: Path) -> ChildEngineProvider:
        settings = EngineSettings(
            model_dir=model_dir,
            model_name=args.model_name,
            quantization=args.quantization,
            engine_args=given_args,
            loras=args.loras,
            work_dir=args.work_dir,
            startup_deadline_s=args.startup_deadline_s,
        )
        return child_provider(settings, os.environ)

    return ModelEngineProvider(fetch, provide)


if __name__ == "__main__":
    raise SystemExit(main())
