"""What the document says of jobs, files and batches. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilotlight_gateway.batches.batch_records import ENDPOINTS, ShownBatch
from pilotlight_gateway.batches.batch_routes import WINDOW, NewBatch
from pilotlight_gateway.batches.file_records import DeletedFile, Page, ShownFile
from pilotlight_gateway.batches.file_routes import FORM, LEAST_KEPT_S, MOST_KEPT_S, MOST_LISTED, PREFIXES
from pilotlight_gateway.jobs.job_records import DeletedJob, JobList, ShownJob
from pilotlight_gateway.jobs.job_routes import MOST_LISTED as MOST_JOBS_LISTED
from pilotlight_wire.handlers import OCTETS
from pilotlight_wire.openapi_operations import BODY_ERRORS, Operation, Schema, event_stream

BASES = dict(zip(PREFIXES, ("", "_openai"), strict=True))


def _limit(most: int) -> Schema:
    return {"type": "integer", "minimum": 1, "maximum": most}


_AFTER: Schema = {"type": "string", "description": "the id of the last one that was read"}
_FILE = "/files/{file}"
_BATCH = "/batches/{batch}"
_UPLOAD: Schema = {
    "type": "object",
    "required": ["purpose", "file"],
    "additionalProperties": False,
    "properties": {
        "purpose": {"const": "batch"},
        "file": {"type": "string", "format": "binary", "minLength": 1},
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": {"type": "integer", "minimum": LEAST_KEPT_S, "maximum": MOST_KEPT_S},
    },
    "dependentRequired": {
        "expires_after[anchor]": ["expires_after[seconds]"],
        "expires_after[seconds]": ["expires_after[anchor]"],
    },
}

JOBS = (
    Operation(
        *("get", "/v1/jobs", "list_jobs", "your jobs, the latest first", JobList, (400,)),
        query={"limit": _limit(MOST_JOBS_LISTED), "after": _AFTER},
    ),
    Operation("get", "/v1/jobs/{job}", "get_job", "the job, with its answer once it has one", ShownJob, (404,)),
    Operation("delete", "/v1/jobs/{job}", "delete_job", "it is cancelled and forgotten", DeletedJob, (404,)),
    Operation(
        *("get", "/v1/jobs/{job}/events", "job_events", "what it answers, as it comes", None, (400, 404, 409)),
        media=event_stream(),
        headers={"Last-Event-ID": {"type": "string", "pattern": r"^[0-9]{1,9}\.[0-9]{1,9}$"}},
    ),
    Operation("post", "/v1/jobs/{job}/cancel", "cancel_job", "the job", ShownJob, (404, 408, 413, 415)),
)
FILES_AND_BATCHES = (
    Operation(
        *("post", "/files", "upload_file", "the file is kept", ShownFile, (*BODY_ERRORS, 429), _UPLOAD),
        takes=FORM,
    ),
    Operation(
        *("get", "/files", "list_files", "your files", Page[ShownFile], (400,)),
        query={
            "limit": _limit(MOST_LISTED),
            "after": _AFTER,
            "order": {"enum": ["asc", "desc"]},
            "purpose": {"enum": ["batch", "batch_output"]},
        },
    ),
    Operation("get", _FILE, "get_file", "the file, without what is in it", ShownFile, (404,)),
    Operation("delete", _FILE, "delete_file", "it is forgotten", DeletedFile, (404,)),
    Operation(
        *("get", f"{_FILE}/content", "file_content", "what is in it", None, (404,)),
        media={OCTETS: {"type": "string", "format": "binary"}},
    ),
    Operation("post", "/batches", "create_batch", "the batch", ShownBatch, BODY_ERRORS, NewBatch),
    Operation(
        *("get", "/batches", "list_batches", "your batches, the latest first", Page[ShownBatch], (400,)),
        query={"limit": _limit(MOST_JOBS_LISTED), "after": _AFTER},
    ),
    Operation("get", _BATCH, "get_batch", "the batch", ShownBatch, (404,)),
    Operation("post", f"{_BATCH}/cancel", "cancel_batch", "the batch", ShownBatch, (404, 408, 413, 415)),
)


def narrowed(schemas: dict[str, Any], choices: Sequence[str] = ENDPOINTS) -> None:
    """What is checked after the structs have decoded a request."""
    if "NewBatch" in schemas:
        schemas["NewBatch"]["properties"] |= {
            "endpoint": {"enum": list(choices)},
            "completion_window": {"const": WINDOW},
        }
