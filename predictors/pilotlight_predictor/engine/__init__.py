"""The engine: what the front sees of it (`contract`), who provides it, and the host process that owns vLLM."""
