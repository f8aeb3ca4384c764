"""Models on this node: what is there, who uses it, what goes when room is needed."""
