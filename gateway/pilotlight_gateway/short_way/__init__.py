"""The gateway as transformer and holder of leases: text, engine and stream in this process."""
