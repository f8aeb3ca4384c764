"""Everything that is decided before vLLM starts: arguments, KV cache, compile cache, adapters."""
