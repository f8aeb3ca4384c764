"""An identity provider: keys, its JWKS, and tokens that it signed, or that somebody else made up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER = "https://login.example"
AUDIENCE = "pilotlight"
JWKS_URL = "https://login.example/keys"


class Key:
    def __init__(self, key_id: str, algorithm: str = "RS256", bits: int = 2048) -> None:
        self.id = key_id
        self.algorithm = algorithm
        self.private: Any
        if algorithm.startswith("ES"):
            self.private = ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}[algorithm])
        elif algorithm == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            self.private = rsa.generate_private_key(65537, bits)

    def jwk(self, **more: Any) -> dict[str, Any]:
        kind = jwt.algorithms.get_default_algorithms()[self.algorithm]
        return {**kind.to_jwk(self.private.public_key(), as_dict=True), "kid": self.id, "use": "sig", **more}

    @property
    def pem(self) -> bytes:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return bytes(self.private.public_key().public_bytes(serialization.Encoding.PEM, form))

    def sign(self, claims: dict[str, Any], header: dict[str, Any] | None = None, algorithm: str = "") -> str:
        headers = {"kid": self.id, **(header or {})}
        headers = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(claims, self.private, algorithm or self.algorithm, headers=headers)


class Provider:
    """`served`: what its JWKS is. `reads`: how often it was read. `fails`: it does not answer."""

    def __init__(self, *keys: Key) -> None:
        self.served = [key.jwk() for key in keys]
        self.reads: list[str] = []
        self.fails: Exception | None = None

    async def fetch(self, url: str) -> bytes:
        self.reads.append(url)
        if self.fails is not None:
            raise self.fails
        return json.dumps({"keys": self.served}).encode()


def written(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """A token of whatever kind, by hand."""
    return ".".join(_part(part) for part in (json.dumps(header).encode(), json.dumps(claims).encode(), signature))


def signed_with(secret: bytes, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """HS256 with `secret`, as an attacker does who has nothing but the public key."""
    unsigned = written(header, claims).rpartition(".")[0]
    return f"{unsigned}.{_part(hmac.new(secret, unsigned.encode(), hashlib.sha256).digest())}"


def _part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
