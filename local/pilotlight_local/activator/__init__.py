"""Holds requests while a revision has no ready pod, and spreads them over the pods it has."""
