"""From text and conversations to token ids: tokenizer files, chat templates."""
