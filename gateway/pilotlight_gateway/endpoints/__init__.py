"""Endpoints on demand: what a tenant may ask for, what is made of it, and who applies it."""
