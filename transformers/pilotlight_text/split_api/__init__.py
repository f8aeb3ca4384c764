"""Text and tokens by themselves, for those who make the tokens elsewhere: vLLM's render and derender."""
