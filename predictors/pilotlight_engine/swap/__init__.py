"""Exchanging the weights of a live engine: rules, plans, copying."""
