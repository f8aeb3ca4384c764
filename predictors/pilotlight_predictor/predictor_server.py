"""Puts the predictor together and runs it until SIGTERM: holder, model, server. The heavy half of the composition root.

Must not read the environment: `__main__` does, and imports this once a lease has been asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
import socket
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import uvloop

from pilotlight_engine import model_source
from pilotlight_engine.admission import QueueLimits, RequestLimits
from pilotlight_engine.client.child_provider import ChildEngineProvider
from pilotlight_engine.client.model_engine_provider import ModelEngineProvider
from pilotlight_engine.client.own_engine import child_provider
from pilotlight_engine.leasing.engine_holder import EngineHolder, PhasedProvider
from pilotlight_engine.leasing.lease_client import Lease, LeaseAsk
from pilotlight_engine.leasing.leased_holder import LeaseTimes, PoolAddress, leased_holder
from pilotlight_engine.leasing.resume import ResumeLimits
from pilotlight_models.in_place import folder_in_place
from pilotlight_predictor.arguments import bounds_of
from pilotlight_predictor.tokens_model import TokensModel
from pilotlight_protocol.engine_frames import HostConfig
from pilotlight_protocol.errors import PilotlightError
from pilotlight_protocol.leases import LeaseRequest
from pilotlight_protocol.model_reference import parse_model_reference
from pilotlight_serving.settings import ServerSettings

Source = Callable[[Namespace], EngineHolder]
"""Makes the holder of whatever engines the predictor serves with; called inside the event loop."""


def run(args: Namespace, listener: socket.socket, source: Source) -> int:
    """The process's exit status. Raises EngineMisconfigured when no engine can ever start."""
    try:
        status: int = uvloop.run(_serve(args, listener, source))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    return status


def own(engine_provider: Callable[[Namespace], PhasedProvider]) -> Source:
    """An engine of our own, held as long as the process lives."""
    return lambda args: EngineHolder(engine_provider(args))


def child_engines(args: Namespace, environment: Mapping[str, str]) -> ModelEngineProvider:
    def folder_of(uri: str) -> Path:
        reference = parse_model_reference(uri)
        folder = folder_in_place(reference)
        if folder is None:
            from pilotlight_store.stored_folder import stored_folder  # only where there is something to fetch

            folder = stored_folder(reference, environment).path  # held until this process ends
        return folder

    def fetch() -> Path:
        return model_source.check_directory(folder_of(args.model))

    def provide(model_dir: Path) -> ChildEngineProvider:
        config = HostConfig(
            model_dir=str(model_dir),
            model_name=args.model_name,
            engine_args=args.engine_args,
            quantization=args.quantization,
            loras=list(args.loras),
            adapter=str(folder_of(args.adapter)) if args.adapter else "",
        )
        return child_provider(config, environment, args.work_dir, args.startup_deadline_s)

    return ModelEngineProvider(fetch, provide)


def leased(wish: LeaseRequest, first: tuple[LeaseAsk, Future[Lease]]) -> Source:
    """Engines of a warm pool, held while there is work. `first`: the ask that is already under way."""

    def holder(args: Namespace) -> EngineHolder:
        times = LeaseTimes(args.startup_deadline_s, args.lease_deadline_s, args.lease_idle_s)
        return leased_holder(wish, PoolAddress(args.pool_url, args.pool_key), times, first)

    return holder


async def _serve(args: Namespace, listener: socket.socket, source: Source) -> int:
    task = asyncio.current_task()
    assert task is not None
    # As PID 1 a signal without a handler is ignored; the server replaces this one when it starts.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    holder, bounds = source(args), bounds_of(args)
    model = TokensModel(
        args.model_name,
        holder,
        RequestLimits.of(bounds),
        QueueLimits.of(bounds),
        [name for name, _ in args.loras],
        ResumeLimits(args.max_resumes, args.resume_deadline_s),
    )
    settings = ServerSettings(
        http_port=args.http_port,
        max_body_bytes=args.max_body_bytes,
        cors=args.allowed_origins,
        max_concurrent_requests=args.max_concurrent_requests,
        drain_timeout_s=args.drain_timeout_s,
        model_control=args.model_control == "explicit",
    )
    async with _held(holder) as holding:
        serving = await asyncio.to_thread(importlib.import_module, "pilotlight_serving.server")
        server = serving.Server(model, settings, listener)

        def end(held: asyncio.Task[None]) -> None:
            """An engine that can never start ends the process, so that the platform shows why and backs off."""
            error = None if held.cancelled() else held.exception()
            if isinstance(error, PilotlightError):
                server.fail(error.message)
            else:
                server.stop()

        holding.add_done_callback(end)
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
