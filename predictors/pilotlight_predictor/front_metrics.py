"""The predictor front's own Prometheus metrics, beside KServe's and vLLM's on `/metrics`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

REFUSED = Counter("pilotlight_predictor_refused", "Requests refused by admission", ["reason"])
ENGINES_LOST = Counter("pilotlight_predictor_engines_lost", "Engines that ended unasked")
RESUMES = Counter(
    "pilotlight_predictor_resumes", "Requests whose engine was lost: resumed, impossible or given_up", ["outcome"]
)
ENGINE_HELD = Gauge("pilotlight_predictor_engine_held", "1 while the front holds a working engine")
BOOT_PHASE = Gauge("pilotlight_predictor_boot_phase_seconds", "Phases of the last engine boot", ["phase"])
IN_FLIGHT_SEQUENCES = Gauge("pilotlight_predictor_sequences_in_flight", "Admitted sequences that have not ended")
PROMISED_TOKENS = Gauge("pilotlight_predictor_promised_tokens", "Tokens that the admitted requests may come to hold")
