"""Keys of the clients of a secure sum: who they are (Ed25519), and secrets that two of them agree on (X25519)."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from promptfed.errors import SecureSumError
from promptfed.privacy.secure_extra import require_cryptography

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY_BYTES, SIGNATURE_BYTES = 32, 64
NONCE_BYTES, TAG_BYTES = 12, 16
SEAL_BYTES = NONCE_BYTES + TAG_BYTES
"""Bytes by which a sealed message is longer than what it hides."""


@dataclass(frozen=True)
class Identity:
    """The long-lived key by which the other clients know one of them. ``private``: 32 bytes that it alone has."""

    private: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Identity:
        """Return an identity that nobody has."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @property
    def public(self) -> bytes:
        """The 32 bytes that the others are given beforehand, not by the server."""
        require_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        require_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.private).sign(message)


def identity_fingerprint(public: bytes) -> str:
    """Return what two people compare to know that they mean the same public identity: 128 bits of its SHA-256."""
    digest = hashlib.sha256(public).hexdigest()
    return "-".join(digest[place : place + 4] for place in range(0, 32, 4))


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether who has the identity ``public`` signed ``message``."""
    require_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True)
class KeyPair:
    """A key for one attempt of one round."""

    private: bytes = field(repr=False)
    public: bytes

    @classmethod
    def new(cls) -> KeyPair:
        """Return a pair that nobody has."""
        return cls.of(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def of(cls, private: bytes) -> KeyPair:
        """Return the pair with this private key."""
        return cls(private, cls(private, b"")._key.public_key().public_bytes_raw())

    def secret(self, other: bytes, info: bytes) -> bytes:
        """Return the 32 bytes that this pair and that of the public key ``other`` agree on, for the use ``info``.

        Raises:
            SecureSumError: ``other`` is no key that anybody has (a point of low order).
        """
        require_cryptography()
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        try:
            agreed = self._key.exchange(X25519PublicKey.from_public_bytes(other))
        except ValueError as error:
            raise SecureSumError("a public key is none") from error
        return derived(agreed, info)

    @cached_property
    def _key(self) -> X25519PrivateKey:
        require_cryptography()
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        return X25519PrivateKey.from_private_bytes(self.private)


def derived(secret: bytes, info: bytes) -> bytes:
    """Return 32 bytes for the use ``info`` of a secret: HKDF (RFC 5869) with SHA-256 and without salt."""
    require_cryptography()
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(secret)


def seal(key: bytes, content: bytes, header: bytes) -> bytes:
    """Return ``content`` so that only who has ``key`` can read it, and only under the same ``header``.

    ChaCha20-Poly1305 (RFC 8439) with a random nonce, which comes first.
    """
    require_cryptography()
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, header)


def unseal(key: bytes, sealed: bytes, header: bytes) -> bytes:
    """Return what was sealed.

    Raises:
        SecureSumError: It was sealed with another key or header, or changed on its way.
    """
    require_cryptography()
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], header)
    except (InvalidTag, ValueError) as error:
        raise SecureSumError("a sealed message was changed on its way, or is of another round") from error
