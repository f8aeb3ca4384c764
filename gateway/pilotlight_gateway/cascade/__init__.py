"""A small model answers first, and a larger one where that answer is not good enough."""
