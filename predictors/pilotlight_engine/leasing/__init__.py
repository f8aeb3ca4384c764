"""Holding an engine of the warm pool while there is work, and going on with another one when it is lost."""
