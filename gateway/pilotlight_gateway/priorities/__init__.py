"""Whose turn it is: priorities, and a fair queue of tenants before each endpoint."""
