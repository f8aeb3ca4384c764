"""How long things may take, where several components must agree."""

REQUEST_TIMEOUT_S = 300.0
"""Knative's default `timeoutSeconds` (KServe's `timeout`), which is a pod's grace period there as well. A request may
take so long, so a drain does; what lasts longer is killed. A spec with another timeout says `--drain_timeout_s` too."""
