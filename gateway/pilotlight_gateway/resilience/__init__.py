"""When an upstream is left alone, and when a request is tried again. Pure: clock and randomness are passed in."""
