"""A canary's way from a small share to all requests, or back to none when it does worse. Pure but for its file."""
