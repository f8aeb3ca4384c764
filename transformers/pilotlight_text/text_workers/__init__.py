"""A text in a process of its own: one tenant's tokenizer and templates, limited, killed when they go beyond."""
