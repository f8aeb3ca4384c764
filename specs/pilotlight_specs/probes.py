"""Reads readiness, liveness and startup probes with Knative's defaults. No I/O is done here."""

from __future__ import annotations

from dataclasses import replace

from pilotlight_specs.desired import Probe
from pilotlight_specs.fields import Fields

_HANDLERS = ("httpGet", "tcpSocket", "exec", "grpc")
_MAX_S = 24 * 3600
_SLOW = "readiness is then looked at every periodSeconds, 10 when not set"


def read_readiness(container: Fields, port: int) -> Probe:
    """The readiness probe. Without one Knative knocks on the TCP port; `periodSeconds` unset or 0 polls fast."""
    probe = _read(container, "readinessProbe", port, default_period_s=0) or Probe()
    fields = container.mapping("readinessProbe")
    if fields is None:
        return probe
    for key in ("failureThreshold", "timeoutSeconds"):
        if not probe.period_s and fields.data.get(key):
            fields.report.warning(fields.at(key), "Knative refuses it while periodSeconds is 0 or not set; set both")
    if probe.kind == "exec":
        fields.report.warning(fields.at("exec"), f"a command turns off Knative's fast readiness polling; {_SLOW}")
    elif probe.initial_delay_s and not container.present("startupProbe"):
        fields.report.warning(
            fields.at("initialDelaySeconds"), "Knative's activator polls a pod as soon as it runs and does not wait"
        )
    return probe


def warn_without_readiness(container: Fields) -> None:
    """`container` is the whole one, its runtime's part included."""
    if container.mapping("readinessProbe") is None:
        container.report.warning(
            container.at("readinessProbe"),
            "missing: Knative then knocks on the TCP port, which may be open before the model is; "
            "add httpGet {path: /v2/health/ready, port: 8080}",
        )


def read_liveness(container: Fields, port: int) -> Probe | None:
    """The liveness probe, if there is one (Kubernetes' defaults: every 10 s, 3 failures)."""
    return _read(container, "livenessProbe", port, default_period_s=10)


def read_startup(container: Fields, port: int) -> Probe | None:
    """The startup probe, if there is one."""
    probe = _read(container, "startupProbe", port, default_period_s=10)
    if probe is not None:
        container.report.warning(
            container.at("startupProbe"), f"a startup probe turns off Knative's fast readiness polling; {_SLOW}"
        )
    return probe


def _read(container: Fields, key: str, port: int, default_period_s: int) -> Probe | None:
    fields = container.mapping(key)
    if fields is None:
        return None
    handlers = [handler for handler in _HANDLERS if fields.present(handler)]
    if len(handlers) > 1:
        fields.report.error(fields.path, f"may have only one of {', '.join(_HANDLERS)}, has {', '.join(handlers)}")
    initial_delay_s = fields.integer("initialDelaySeconds", 0, _MAX_S) or 0
    period_s = fields.integer("periodSeconds", 0, _MAX_S)
    timeout_s = fields.integer("timeoutSeconds", 0, _MAX_S) or 1
    success = fields.integer("successThreshold", 0, 1000) or 1
    if success > 1 and key != "readinessProbe":
        fields.report.error(fields.at("successThreshold"), f"must be 1 for a {key}, was {success}")
    failure = fields.integer("failureThreshold", 0, 10000) or 3
    http, tcp, grpc = (fields.mapping(name) for name in ("httpGet", "tcpSocket", "grpc"))
    command = fields.mapping("exec")
    base = Probe(
        initial_delay_s=initial_delay_s,
        period_s=period_s or default_period_s,
        timeout_s=timeout_s,
        success_threshold=success,
        failure_threshold=failure,
    )
    probe = base
    if http is not None:
        probe = replace(base, kind="http", path=http.text("path") or "/", headers=_headers(http))
        _check_port(http, port)
        if http.text("scheme", "HTTP") != "HTTP":
            http.report.unsupported(http.at("scheme"), "probes here are plain HTTP")
        http.finish({"host": "probes go to the pod on the loopback address"})
    elif tcp is not None:
        _check_port(tcp, port)
        tcp.finish({"host": "probes go to the pod on the loopback address"})
    elif command is not None:
        probe = replace(base, kind="exec", command=command.texts("command"))
        command.finish()
    elif grpc is not None:
        probe = replace(base, kind="grpc", path=grpc.text("service"))
        _check_port(grpc, port)
        grpc.report.unsupported(grpc.path, "only the port is knocked on here, the health service is not asked")
        grpc.finish()
    fields.finish({"terminationGracePeriodSeconds": "the pod's own grace period is used"})
    return probe


def _headers(http: Fields) -> tuple[tuple[str, str], ...]:
    found = []
    for header in http.mappings("httpHeaders"):
        found.append((header.required_text("name"), header.text("value")))
        header.finish()
    return tuple(found)


def _check_port(handler: Fields, port: int) -> None:
    value = handler.raw("port")
    if value is None or value in (0, port, str(port)) or value in ("http1", "h2c", "http"):
        return
    handler.report.unsupported(handler.at("port"), f"only the container's own port {port} is probed here, not {value}")
