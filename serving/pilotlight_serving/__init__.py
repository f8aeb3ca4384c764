"""Pilotlight."""
