"""Text and tokens: templates, tokenization, detokenization and API shapes over a source of token streams."""
