"""The agent: engine slots of one node. Does what the coordinator says and chooses nothing.

module           is responsible for
slot_settings    what `--slot cpu:0=4GiB` means
model_files      from a model's URI to a folder, a fingerprint and a tier
engine_output    an engine's standard output: forwarded, its end kept for reasons
engine_process   one engine host: its control socket and its process
zygote           the pre-imported process that forks engine hosts
swap_checks      whether a swap is to be believed, and whether to try another
agent            puts these together as `agent_port.AgentPort`
"""
