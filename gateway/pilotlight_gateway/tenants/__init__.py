"""Whose request it is: tenants, their keys and roles, and the authenticators that tell them."""
