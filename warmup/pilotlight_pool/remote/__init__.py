"""Agent and coordinator in two processes: the agent dials, and one WebSocket carries everything between them.

module            is responsible for
frames            what is said, and errors that keep their class on the way
connection        one connection: frames in order, a bounded queue, a limit to silence
token_file        who may say it
coordinator_link  the agent's end: dials, registers, carries out commands, tells events
agents_server     the coordinator's end: lets agents in
remote_agent      an agent elsewhere as `agent_port.AgentPort`
agent_health      /healthz and /readyz of an agent

Frames of one connection arrive in order or the connection is over; a new one starts with a full report. So nothing that
an agent tells can be lost without both ends knowing it. Who obeys whom is `policy.presence`.
"""
