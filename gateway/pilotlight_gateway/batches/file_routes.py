"""OpenAI's files over HTTP, each tenant's own.

POST  /v1/files     GET  /v1/files     GET, DELETE  /v1/files/{file}     GET  /v1/files/{file}/content
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, BinaryIO

import msgspec

from pilotlight_gateway.batches.batch_settings import BatchSettings
from pilotlight_gateway.batches.file_folder import FileFolder, new_id
from pilotlight_gateway.batches.file_records import (
    DeletedFile,
    FileNotKept,
    FileRecord,
    Purpose,
    fit_name,
    page,
    shown_file,
)
from pilotlight_gateway.batches.multipart_upload import Upload, read_upload
from pilotlight_gateway.batches.sqlite_batches import SqliteBatches
from pilotlight_gateway.gateway_app import OwnRoute
from pilotlight_gateway.jobs.disk_threads import on_disk
from pilotlight_gateway.jobs.job_routes import listed
from pilotlight_gateway.request_steps import Caller
from pilotlight_protocol.errors import InvalidInput, TooManyRequests, UnsupportedMediaType
from pilotlight_wire.handlers import Reply, RequestContext, Stream

PREFIXES = ("/v1", "/openai/v1")
MOST_LISTED = 10_000
UPLOADS_AT_ONCE = 8
PIECE_BYTES = 256 << 10
_PART = "upload"
FORM = "multipart/form-data"
LEAST_KEPT_S, MOST_KEPT_S = 3600, 30 * 86_400


class Files:
    def __init__(
        self,
        store: SqliteBatches,
        folder: FileFolder,
        settings: Callable[[], BatchSettings],
        wall_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._folder = folder
        self._settings = settings
        self._wall_s = wall_s
        self._uploading: dict[str, int] = {}

    def routes(self) -> list[OwnRoute]:
        return [
            route
            for prefix in PREFIXES
            for route in (
                OwnRoute("POST", f"{prefix}/files", self._create, content_types=(FORM,), reads_body=False),
                OwnRoute("GET", f"{prefix}/files", self._list),
                OwnRoute("GET", f"{prefix}/files/{{file}}", self._get),
                OwnRoute("DELETE", f"{prefix}/files/{{file}}", self._delete),
                OwnRoute("GET", f"{prefix}/files/{{file}}/content", self._content),
            )
        ]

    async def file_of(self, tenant: str, file_id: str) -> FileRecord:
        """Raises FileNotKept: another tenant's is told from none in nothing."""
        file = await on_disk(self._store.file, file_id)
        if file is None or file.tenant != tenant or file.expires_s <= self._wall_s():
            raise FileNotKept("there is no such file: GET /v1/files lists yours")
        return file

    async def _create(self, context: RequestContext, caller: Caller) -> Reply:
        if context.headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedMediaType("send the form as it is, without a Content-Encoding")
        uploading = self._uploading.get(caller.tenant, 0)
        if uploading >= UPLOADS_AT_ONCE:
            raise TooManyRequests(f"{uploading} of your files arrive already; send this one later", retry_after_s=5)
        self._uploading[caller.tenant] = uploading + 1
        try:
            return await self._received(context, caller)
        finally:
            self._uploading[caller.tenant] -= 1
            if not self._uploading[caller.tenant]:
                del self._uploading[caller.tenant]

    async def _received(self, context: RequestContext, caller: Caller) -> Reply:
        settings = self._settings()
        room = await on_disk(self._store.room, caller.tenant, settings)
        file_id = new_id("file-")
        try:
            with self._folder.writer(file_id, _PART) as part:
                assert context.pieces is not None
                upload = await read_upload(context.pieces, context.headers.get("content-type", ""), part, room)
            kept_s = _kept_s(upload, settings)
            now_s = self._wall_s()
            file = FileRecord(
                file_id,
                caller.tenant,
                fit_name(upload.filename or ""),
                "batch",
                upload.size_bytes,
                now_s,
                now_s + kept_s,
            )
            if not await on_disk(self._folder.publish, file_id, _PART, file_id):
                raise InvalidInput("the file is empty", param="file")
            try:
                await on_disk(self._store.add_file, file, settings)
            except BaseException:
                self._folder.delete(file_id)
                raise
        except BaseException:
            self._folder.discard(file_id, _PART)
            raise
        return _json(shown_file(file))

    async def _list(self, context: RequestContext, caller: Caller) -> Reply:
        query = context.query
        limit, order = listed(query.get("limit"), MOST_LISTED), query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidInput("order must be asc or desc", param="order")
        purpose = _purpose(query.get("purpose"))
        found = await on_disk(self._store.files, caller.tenant, purpose, query.get("after"), limit + 1, order == "desc")
        return _json(page([shown_file(file) for file in found], limit))

    async def _get(self, context: RequestContext, caller: Caller) -> Reply:
        return _json(shown_file(await self.file_of(caller.tenant, context.path_parameters["file"])))

    async def _delete(self, context: RequestContext, caller: Caller) -> Reply:
        file = await self.file_of(caller.tenant, context.path_parameters["file"])
        await on_disk(self._store.delete_file, file.id)
        await on_disk(self._folder.delete, file.id)
        return _json(DeletedFile(file.id, "file", deleted=True))

    async def _content(self, context: RequestContext, caller: Caller) -> Stream:
        file = await self.file_of(caller.tenant, context.path_parameters["file"])
        opened = await on_disk(self._folder.opened, file.id)
        context.response_headers["content-disposition"] = "attachment"
        # So that a client does not take what is cut for whole.
        context.response_headers["content-length"] = str(file.size_bytes)
        return Stream(_Pieces(opened), "application/octet-stream")


class _Pieces:
    """The bytes of a file. No generator: one that never ran would not close it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await on_disk(self._file.read, PIECE_BYTES)
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        self._file.close()


def _purpose(given: str | None) -> Purpose | None:
    if given is None:
        return None
    if given == "batch":
        return "batch"
    if given == "batch_output":
        return "batch_output"
    raise InvalidInput("purpose must be batch or batch_output", param="purpose")


def _kept_s(upload: Upload, settings: BatchSettings) -> float:
    """How long it is kept. Raises InvalidInput."""
    if upload.fields.get("purpose") != "batch":
        raise InvalidInput("purpose must be batch: files are for batches here", param="purpose")
    unknown = upload.fields.keys() - {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
    if unknown:
        raise InvalidInput(f"the form has a field that is not known: {min(unknown)[:64]}", param="file")
    if "expires_after[seconds]" not in upload.fields and "expires_after[anchor]" not in upload.fields:
        return settings.kept_s
    seconds = upload.fields.get("expires_after[seconds]", "")
    if upload.fields.get("expires_after[anchor]") != "created_at":
        raise InvalidInput("expires_after[anchor] must be created_at", param="expires_after")
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) < 9):
        raise InvalidInput("expires_after[seconds] must be a number of seconds", param="expires_after")
    if not LEAST_KEPT_S <= int(seconds) <= MOST_KEPT_S:
        message = f"expires_after[seconds] must be from {LEAST_KEPT_S} to {MOST_KEPT_S}"
        raise InvalidInput(message, param="expires_after")
    return float(seconds)


def _json(value: Any) -> Reply:
    return Reply(msgspec.json.encode(value))
