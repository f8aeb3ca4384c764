"""Virtual time: the coordinator itself, over engines that only take time.

    virtual_pool    the real coordinator on a loop whose clock jumps; an agent whose commands take as long as told
    contention      leases that compete for slots
    warm_pool       a request trace; one holder per endpoint, as a predictor holds its lease
    fixed_window    the same trace with a pod per endpoint, kept for a fixed time
    variants        the policies that are compared, ours with each part left out
    frontier        policies at equal slot-hours
    crowding        tenants per slot
    costs           what things take, in seconds: the one place
    request_trace, trace_catalog, public_traces, servegen, synthetic   where requests come from

Deterministic but for the ids of leases: randomness is a seed in the trace, nowhere else.
"""
