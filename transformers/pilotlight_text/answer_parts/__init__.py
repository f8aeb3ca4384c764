"""What an answer is made of besides plain text: reasoning and tool calls, read out of a choice's text."""
