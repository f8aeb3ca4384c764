"""vLLM itself: the only modules that import it while it runs."""
