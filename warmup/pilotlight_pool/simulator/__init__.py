"""Virtual time: the warm pool's policies under request traces and under contention, without a process or a socket.

`contention` runs the very modules a coordinator runs (ledger, placement, fairness, preemption); `fixed_window` and
`warm_pool` replay request traces for `make bench-policy`. Deterministic: randomness is a seed in the trace, nowhere
else.
"""
