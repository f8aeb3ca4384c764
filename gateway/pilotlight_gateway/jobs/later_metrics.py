"""What became of jobs and of batches' lines, over all tenants together."""

from __future__ import annotations

from prometheus_client import Counter

JOBS = Counter("pilotlight_gateway_jobs", "Jobs that ended, by state", ["state"])
BATCH_LINES = Counter("pilotlight_gateway_batch_lines", "Lines of batches that are done, by file", ["file"])
