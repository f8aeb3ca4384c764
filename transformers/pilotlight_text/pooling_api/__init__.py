"""Embeddings, rerankings and scores: what clients of OpenAI, Jina, Cohere and vLLM send to a pooling model."""
