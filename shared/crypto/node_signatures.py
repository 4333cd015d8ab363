"""What a SuperNode signs, checked: ECDSA over SHA-256 (FIPS 186-5) with a node key, as Flower 1.41 signs the time.

Promises
- ``signed_by`` answers False for everything that is no signature, no key, or no key on P-384 in its one spelling.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from shared.crypto.node_keys import PrivateKey, require_public_pem

_LONGEST_PEM = 400


def sign(key: PrivateKey, message: bytes) -> bytes:
    """A signature in DER."""
    return key.sign(message, ec.ECDSA(SHA256()))


def signed_by(public_pem: str, message: bytes, signature: bytes) -> bool:
    """Whether the owner of ``public_pem`` signed ``message``."""
    try:
        if len(public_pem) > _LONGEST_PEM:
            return False
        key = load_pem_public_key(require_public_pem(public_pem).encode("ascii"))
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(SHA256()))
            return True
    except (InvalidSignature, ValueError):
        return False
    return False
