"""OpenAI's completions and chat over a text model."""
