"""Which of an endpoint's replicas a request goes to. Pure: clock and randomness are passed in."""
