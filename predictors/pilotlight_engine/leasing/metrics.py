"""Prometheus metrics of a process that holds an engine."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ENGINES_LOST = Counter("pilotlight_predictor_engines_lost", "Engines that ended unasked")
RESUMES = Counter(
    "pilotlight_predictor_resumes", "Requests whose engine was lost: resumed, impossible or given_up", ["outcome"]
)
ENGINE_HELD = Gauge("pilotlight_predictor_engine_held", "Working engines that are held; a predictor holds one")
BOOT_PHASE = Gauge("pilotlight_predictor_boot_phase_seconds", "Phases of the last engine boot", ["phase"])
