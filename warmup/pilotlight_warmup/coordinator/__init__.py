"""The coordinator: leases in, engines out. Decides with `policy`, acts through `agent_port`.

module         is responsible for
lease_bodies   the JSON of the lease API
pool           the one state (ledger, queue, predictions, worth) and every step that changes it
dispatch       who is next and where: fair order, preemption, placement
roster         who the agents are, who is away, and the drivers of their slots
model_search   what the agents know of a model, and where its weights are
slot_driver    one task per slot: brings it from what it is to what its lease needs
warm_orders    what tenants want held warm: prewarm calls and schedules
warmth         what idle engines are kept for, stopped for, or booted ahead for
desk           the holders' side: ask, poll, renew, release
reported_state what an agent reports, in the ledger's words
exposition     Prometheus metrics
http_api       the routes
coordinator    puts these together and owns their tasks
"""
