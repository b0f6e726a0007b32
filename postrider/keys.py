"""The service's RSA keys, for which clients encrypt files: the newest is given out, files for older ones still open."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from postrider.ring import Ring

BITS = 3072
VALID_FOR = timedelta(days=20 * 365)
"""A certificate's life: it says nothing but whose key it is, and ends with its key."""
BEFORE = timedelta(days=1)
"""It is valid so long before it was made: a client's clock may be behind."""
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


@dataclass(frozen=True, slots=True)
class Key:
    """One key pair. `kid` is its RFC 7638 thumbprint; `pem` and `certificate_pem` are for everybody."""

    private: rsa.RSAPrivateKey = field(repr=False)
    certificate: x509.Certificate
    kid: str
    pem: str
    certificate_pem: str

    @property
    def made_at(self) -> datetime:
        """When it was made."""
        return self.certificate.not_valid_before_utc + BEFORE

    @property
    def size(self) -> int:
        """Bytes of what is encrypted with it."""
        return self.private.key_size // 8

    def jwk(self) -> dict[str, str]:
        """The public key as RFC 7517 has it, so that Web Crypto can import it."""
        more = {"kid": self.kid, "alg": "RSA-OAEP-256", "use": "enc"}
        return _public_jwk(self.private.public_key()) | more

    def unwrap(self, wrapped: bytes) -> bytes | None:
        """What is in an RSA-OAEP-SHA256 envelope; None when it is not for this key."""
        try:
            return self.private.decrypt(wrapped, OAEP)
        except ValueError:
            return None


class Keys:
    """The key pairs in one folder."""

    def __init__(self, folder: Path) -> None:
        self.ring = Ring(folder, ".pem", _make, _read)

    def newest(self) -> Key:
        """The one that clients get; made when there is none."""
        return self.ring.newest()

    def every(self) -> tuple[Key, ...]:
        """All that still open files, the newest first."""
        return self.ring.every()

    def rotate(self) -> Key:
        """Makes a new one, which clients get from now on."""
        return self.ring.add()


def _make() -> bytes:
    """A private key and a certificate of it, as one file: they appear together."""
    private = rsa.generate_private_key(65_537, BITS)
    public = private.public_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Postrider")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE)
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_only_encrypts(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(private, hashes.SHA256())
    )
    secret = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret + certificate.public_bytes(Encoding.PEM)


def _only_encrypts() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read(text: bytes) -> Key:
    # It is our own: to prove again that its numbers are primes takes a tenth of a second each time.
    private = load_pem_private_key(text, None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise ValueError("this is no RSA key")  # noqa: TRY004 - a file's fault, not a caller's
    certificate = x509.load_pem_x509_certificate(text)
    public = private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    told = json.dumps(_public_jwk(public), sort_keys=True, separators=(",", ":"))
    kid = _base64url(hashlib.sha256(told.encode()).digest())
    return Key(private, certificate, kid, pem, certificate.public_bytes(Encoding.PEM).decode())


def _public_jwk(public: rsa.RSAPublicKey) -> dict[str, str]:
    numbers = public.public_numbers()
    return {"kty": "RSA", "n": _base64url(_bytes(numbers.n)), "e": _base64url(_bytes(numbers.e))}


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
