"""The engine: what the server sees of it (`contract`), who provides it, and the host process that owns vLLM."""
