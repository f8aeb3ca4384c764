"""POST /tokenize and /detokenize, in vLLM's shapes: what a text or a conversation is in tokens, and back."""
