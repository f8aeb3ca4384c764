"""The warm pool's decisions as pure functions: no I/O, no clock, no randomness, no logging.

    what                       module                decides
    slot life cycle            slot_lifecycle        which events a slot may see in which state
    lease life cycle           lease_lifecycle       the same for a lease
    who holds what             ledger                every lease on at most one slot, every slot under at most one lease
    what an agent reports      resync                the ledger after a restart or an absence
    who belongs to whom        presence              registration of agents, and the epoch of coordinators
    how long will it take      prediction            seconds until ready per path, learned; prediction against outcome
    where                      placement             the slot with the lowest predicted ready time, and why
    who is next                fairness              weighted fair queueing of tenants in slot-seconds
    who must give way          preemption            idle, then batch, then lent; never interactive within a share
    what may be taken          eviction_rules            which engines may be stopped, or are kept for a tenant
    when will it be            queue_round           one pass over the queue: who is placed, when the others
    what keeps failing         boot_backoff          how long a model whose engines fail waits for the next
    how long to keep warm      keep_alive            layers, from the idle-time histogram
    when idling costs nobody   uncontested           engines that stay in slots nobody else wants
    what to warm ahead         prewarm_schedule      cron annotations

Times are seconds on whatever clock the caller uses, passed as `now_s`; only `prewarm_schedule` needs that
clock to be Unix time. Every decision carries its reasons as text with numbers; the caller logs and records them.
"""
