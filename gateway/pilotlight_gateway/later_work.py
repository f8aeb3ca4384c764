"""Jobs, files and batches put together, over one folder: what `__main__` passes in, starts and closes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pilotlight_gateway.batches.batch_routes import Batches
from pilotlight_gateway.batches.batch_runner import BatchRunner
from pilotlight_gateway.batches.file_folder import FileFolder
from pilotlight_gateway.batches.file_routes import Files
from pilotlight_gateway.batches.sqlite_batches import FILE_NAME as BATCHES_FILE
from pilotlight_gateway.batches.sqlite_batches import SqliteBatches
from pilotlight_gateway.configuration.gateway_config import GatewayConfig
from pilotlight_gateway.gateway_app import OwnRoute
from pilotlight_gateway.jobs.job_routes import Jobs
from pilotlight_gateway.jobs.job_runner import CallerAgain, JobRunner
from pilotlight_gateway.jobs.sqlite_jobs import FILE_NAME as JOBS_FILE
from pilotlight_gateway.jobs.sqlite_jobs import SqliteJobs
from pilotlight_gateway.jobs.stored_request import StoredRequest
from pilotlight_gateway.pipeline import Pipeline
from pilotlight_gateway.request_steps import Caller
from pilotlight_gateway.routing.route_spec import headers_of_rules
from pilotlight_protocol.errors import ModelNotFound, Unavailable
from pilotlight_wire.handlers import Reply, RequestContext, Stream

FILES_FOLDER = "files"
PLATFORM_STARTS_S = 20.0
"""For so long a model that nobody has heard of may still come: gateway and platform started together."""


class LaterWork:
    """`jobs` implements `request_steps.Later`. `run_by` before `start`; `close` before the ways are closed."""

    def __init__(
        self,
        folder: Path,
        caller_again: CallerAgain,
        config: Callable[[], GatewayConfig],
        is_draining: Callable[[], bool],
    ) -> None:
        jobs, batches, files = (
            SqliteJobs(folder / JOBS_FILE),
            SqliteBatches(folder / BATCHES_FILE),
            FileFolder(folder / FILES_FOLDER),
        )
        self._job_runner = JobRunner(jobs, self._run, caller_again, lambda: config().jobs, is_draining)
        self._batch_runner = BatchRunner(batches, files, self._run, caller_again, lambda: config().batches, is_draining)
        self.jobs = Jobs(
            jobs, self._job_runner, lambda: config().jobs, time.time, lambda: headers_of_rules(config().routes)
        )
        self._files = Files(batches, files, lambda: config().batches, time.time)
        self._batches = Batches(batches, self._files, self._batch_runner, lambda: config().batches, time.time)
        self._pipeline: Pipeline | None = None
        self._all_known_s = 0.0

    def routes(self) -> list[OwnRoute]:
        return [*self.jobs.routes(), *self._files.routes(), *self._batches.routes()]

    def run_by(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def start(self, platform_starts_s: float = PLATFORM_STARTS_S) -> None:
        self._all_known_s = time.monotonic() + platform_starts_s
        self._job_runner.start()
        self._batch_runner.start()

    async def close(self) -> None:
        await self._job_runner.close()
        await self._batch_runner.close()

    async def _run(self, caller: Caller, request: StoredRequest, context: RequestContext) -> Reply | Stream:
        assert self._pipeline is not None
        try:
            return await self._pipeline.answer_as(caller, request.place, context)
        except ModelNotFound as error:
            if time.monotonic() > self._all_known_s:
                raise
            raise Unavailable(error.message, retry_after_s=5.0) from error
