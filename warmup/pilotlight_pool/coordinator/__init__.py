"""The coordinator: leases in, engines out. Decides with `policy`, acts through `agent_port`.

module         is responsible for
pool           the one state (ledger, queue, charges) and every step that changes it
model_history  what was learned of models: times, worth, failures, refusals
dispatch       who is next and where: fair order, preemption, placement
agent_registry who the agents are, who is away, and the drivers of their slots
slot_membership slots that come and go with their agents
model_search   what the agents know of a model, and where its weights are
slot_driver    one task per slot: brings it from what it is to what its lease needs
engine_failures what follows when an engine of a slot fails
slot_goal      what one slot is to become
warm_orders    what tenants want held warm: prewarm calls and schedules
keep_alive_controller what idle engines are kept for, stopped for, or booted ahead for
lease_service  the holders' side: ask, poll, renew, release
reported_state what an agent reports, in the ledger's words
metrics        Prometheus metrics
http_api       the routes
coordinator    puts these together and owns their tasks
"""
