"""How models write the calls of functions, one module per format: each a script over a choice's text. Pure."""
