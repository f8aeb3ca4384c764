"""Requests that nobody waits for: kept, run when it is their turn, and read later."""
