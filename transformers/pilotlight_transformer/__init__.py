"""The transformer: text in, text out, tokens to and from the predictor."""
