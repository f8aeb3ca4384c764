"""The platform's own metrics in Prometheus text format. Pure but for the live objects it reads."""

from collections.abc import Iterable, Mapping

from pilotlight_local.controller.live_endpoint import LiveEndpoint
from pilotlight_local.controller.live_revision import LiveRevision

GAUGES = (
    ("pilotlight_activator_queue_depth", "Requests that wait for a pod.", lambda r: r.activator.queued),
    ("pilotlight_running_requests", "Requests that a pod works on.", lambda r: r.activator.running),
    ("pilotlight_desired_pods", "Pods the autoscaler wants.", lambda r: r.wanted_pods),
    ("pilotlight_ready_pods", "Pods that take requests.", lambda r: len(r.ready_pods)),
)


def render(requests: Mapping[tuple[str, int], int], endpoints: Iterable[LiveEndpoint]) -> str:
    """Every metric of every revision; `requests` by revision and status."""
    revisions = [(endpoint, revision) for endpoint in endpoints for revision in endpoint.revisions()]
    lines = ["# HELP pilotlight_requests_total Requests by status.", "# TYPE pilotlight_requests_total counter"]
    for (name, status), count in sorted(requests.items()):
        lines.append(f'pilotlight_requests_total{{revision="{name}",status="{status}"}} {count}')
    for metric, text, value in GAUGES:
        lines += [f"# HELP {metric} {text}", f"# TYPE {metric} gauge"]
        lines += [f"{metric}{{{_labels(endpoint, revision)}}} {value(revision)}" for endpoint, revision in revisions]
    lines += [
        "# HELP pilotlight_cold_starts_total Times a revision went from no ready pod to one.",
        "# TYPE pilotlight_cold_starts_total counter",
    ]
    for endpoint, revision in revisions:
        lines.append(f"pilotlight_cold_starts_total{{{_labels(endpoint, revision)}}} {revision.boots.count}")
    return "\n".join(lines) + "\n"


def _labels(endpoint: LiveEndpoint, revision: LiveRevision) -> str:
    return (
        f'namespace="{endpoint.name.namespace}",endpoint="{endpoint.name.name}",'
        f'component="{revision.role}",revision="{revision.name}"'
    )
