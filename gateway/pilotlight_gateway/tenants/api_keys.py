"""What a key is: `plk_<id>_<secret><checksum>`, in base 62. Pure: random bytes are passed in.

The id (72 bits) finds the key and is no secret. The secret has 200 random bits, so its SHA-256 is all that is stored:
a slow hash protects what can be guessed, and nobody tries 2^200 of them. The checksum (CRC-32) tells a key that was cut
or mistyped, and lets scanners of source code know one for sure.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib

import msgspec

PREFIX = "plk"
ID_BYTES = 9
SECRET_BYTES = 25
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH, _SECRET_LENGTH, _CHECKSUM_LENGTH = 13, 34, 6
_SHAPE = re.compile(
    rf"{PREFIX}_([0-9A-Za-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}}([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})"
).fullmatch
_NOBODYS = bytes(32)


class ApiKey(msgspec.Struct, frozen=True):
    """A key as its owner has it. Neither `str` nor `repr` shows it; `shown` is for the one who made it."""

    id: str
    _text: str

    @property
    def shown(self) -> str:
        return self._text

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self._text.encode("ascii")).digest()

    def is_of(self, digest: bytes | None) -> bool:
        """Whether the stored `digest` is this key's; takes as long where there is none."""
        same = hmac.compare_digest(self.digest, _NOBODYS if digest is None else digest)
        return same and digest is not None

    def __repr__(self) -> str:
        return f"ApiKey({self.id})"

    __str__ = __repr__


def new_key(id_bytes: bytes, secret_bytes: bytes) -> ApiKey:
    assert (len(id_bytes), len(secret_bytes)) == (ID_BYTES, SECRET_BYTES)
    key_id = _base62(int.from_bytes(id_bytes, "big"), _ID_LENGTH)
    body = f"{PREFIX}_{key_id}_{_base62(int.from_bytes(secret_bytes, 'big'), _SECRET_LENGTH)}"
    return ApiKey(key_id, body + _checksum(body))


def parse_key(text: str) -> ApiKey | None:
    """None where it is none, whoever's."""
    shape = _SHAPE(text)
    if shape is None or _checksum(text[:-_CHECKSUM_LENGTH]) != shape[2]:
        return None
    return ApiKey(shape[1], text)


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
