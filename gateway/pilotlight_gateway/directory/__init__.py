"""Which endpoints there are, as a platform tells it, and what a name means to whom."""
