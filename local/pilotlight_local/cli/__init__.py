"""What a person types and sees: the commands of `pilotlight`, their tables, the control socket's client."""
