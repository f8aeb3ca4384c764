"""OpenAI's batches over HTTP, each tenant's own.

POST  /v1/batches     GET  /v1/batches     GET  /v1/batches/{batch}     POST  /v1/batches/{batch}/cancel
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from pilotlight_gateway.batches.batch_records import ENDPOINTS, Batch, BatchNotFound, shown_batch
from pilotlight_gateway.batches.batch_runner import BatchRunner
from pilotlight_gateway.batches.batch_settings import BatchSettings
from pilotlight_gateway.batches.file_folder import new_id
from pilotlight_gateway.batches.file_records import page
from pilotlight_gateway.batches.file_routes import PREFIXES, Files
from pilotlight_gateway.batches.sqlite_batches import SqliteBatches
from pilotlight_gateway.gateway_app import OwnRoute
from pilotlight_gateway.jobs.disk_threads import on_disk
from pilotlight_gateway.jobs.job_routes import listed
from pilotlight_gateway.request_steps import Caller
from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.json_bodies import read_json
from pilotlight_wire.handlers import Reply, RequestContext

WINDOW = "24h"
_Text = Annotated[str, msgspec.Meta(max_length=512)]
_Key = Annotated[str, msgspec.Meta(max_length=64)]


class NewBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """OpenAI's request."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Annotated[dict[_Key, _Text], msgspec.Meta(max_length=16)] | None = None


_new = msgspec.json.Decoder(NewBatch)


class Batches:
    def __init__(
        self,
        store: SqliteBatches,
        files: Files,
        runner: BatchRunner,
        settings: Callable[[], BatchSettings],
        wall_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._files = files
        self._runner = runner
        self._settings = settings
        self._wall_s = wall_s

    def routes(self) -> list[OwnRoute]:
        return [
            route
            for prefix in PREFIXES
            for route in (
                OwnRoute("POST", f"{prefix}/batches", self._create),
                OwnRoute("GET", f"{prefix}/batches", self._list),
                OwnRoute("GET", f"{prefix}/batches/{{batch}}", self._get),
                OwnRoute("POST", f"{prefix}/batches/{{batch}}/cancel", self._cancel),
            )
        ]

    async def _create(self, context: RequestContext, caller: Caller) -> Reply:
        asked = read_json(_new, context.body, "a batch")
        if asked.endpoint not in ENDPOINTS:
            raise InvalidInput(f"endpoint must be one of {', '.join(ENDPOINTS)}", param="endpoint")
        if asked.completion_window != WINDOW:
            raise InvalidInput(f"completion_window must be {WINDOW}", param="completion_window")
        file = await self._files.file_of(caller.tenant, asked.input_file_id)
        if file.purpose != "batch":
            raise InvalidInput("input_file_id must be a file with the purpose batch", param="input_file_id")
        now_s = self._wall_s()
        batch = Batch(
            new_id("batch_"),
            caller.tenant,
            caller.key_id,
            asked.endpoint,
            file.id,
            asked.completion_window,
            now_s,
            now_s + self._settings().window_s,
            asked.metadata,
        )
        await self._runner.add(batch)
        return _json(shown_batch(batch))

    async def _list(self, context: RequestContext, caller: Caller) -> Reply:
        query = context.query
        limit = listed(query.get("limit"))
        found = await on_disk(self._store.batches, caller.tenant, query.get("after"), limit + 1)
        return _json(page([shown_batch(batch) for batch in found], limit))

    async def _get(self, context: RequestContext, caller: Caller) -> Reply:
        return _json(shown_batch(await self._own(context, caller)))

    async def _cancel(self, context: RequestContext, caller: Caller) -> Reply:
        return _json(shown_batch(_there(await self._runner.cancel(await self._own(context, caller)))))

    async def _own(self, context: RequestContext, caller: Caller) -> Batch:
        batch = await on_disk(self._store.batch, context.path_parameters["batch"])
        return _there(batch if batch is not None and batch.tenant == caller.tenant else None)


def _there(batch: Batch | None) -> Batch:
    if batch is None:
        raise BatchNotFound("there is no such batch: GET /v1/batches lists yours")
    return batch


def _json(value: Any) -> Reply:
    return Reply(msgspec.json.encode(value))
