"""Constraints of outputs: what is asked of xgrammar and llguidance, and the process in which it is tried first."""
