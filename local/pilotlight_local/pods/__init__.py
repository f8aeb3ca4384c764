"""Pods as processes: their commands, models, ports, probes, logs and ends."""
