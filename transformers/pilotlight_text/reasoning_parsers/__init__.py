"""How models set their reasoning apart from the answer: each a script over a choice's text. Pure."""
