"""What an operator changes while the gateway runs: one YAML file, read at the start and again when it changes."""
