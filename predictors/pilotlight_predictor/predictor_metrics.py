"""The predictor's own Prometheus metrics, beside KServe's and vLLM's on `/metrics`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from pilotlight_engine.admission import QueueGauges

REFUSED = Counter("pilotlight_predictor_refused", "Requests refused by admission", ["reason"])
IN_FLIGHT_SEQUENCES = Gauge("pilotlight_predictor_sequences_in_flight", "Admitted sequences that have not ended")
PROMISED_TOKENS = Gauge("pilotlight_predictor_promised_tokens", "Tokens that the admitted requests may come to hold")
PROMISED = QueueGauges(IN_FLIGHT_SEQUENCES, PROMISED_TOKENS, REFUSED.labels)
