"""The secret that agents and their coordinator share, read from a file each time, so that it can be exchanged there.

It is never on a command line, in a log line or in a message.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from pilotlight_protocol.errors import InvalidInput

_LEAST_CHARACTERS = 16
_SCHEME = "Bearer "


class TokenFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str:
        """Raises InvalidInput where the file cannot be read, or holds too little to be a secret."""
        try:
            token = self._path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"--token_file {self._path} cannot be read: {error}") from error
        if len(token) < _LEAST_CHARACTERS or not token.isascii() or not token.isprintable():
            raise InvalidInput(
                f"--token_file {self._path} holds no token: write {_LEAST_CHARACTERS} characters or more into it, "
                "for example what `openssl rand -hex 32` prints"
            )
        return token

    def header(self) -> str:
        """The value of `Authorization`."""
        return _SCHEME + self.read()

    def opens_for(self, authorization: str) -> bool:
        """Whether a request with this `Authorization` knows the token; takes as long whatever it is."""
        return hmac.compare_digest(authorization.encode(), self.header().encode())
