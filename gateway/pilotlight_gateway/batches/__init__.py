"""OpenAI's files and batches: many requests in a file, run where nobody else wants the capacity."""
