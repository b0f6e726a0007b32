"""Keys and passwords: made here, turned into what may be stored, and compared without telling anything by the time it takes.

Pure functions. A key is 256 random bits, so a fast hash hides it; a password is what a person remembers, so a slow one does.
"""

import base64
import hashlib
import hmac
import secrets

from postrider.model import ALPHABET

KEY_PREFIX = "pr_"
"""Tells a key of ours from other text: for people, and for what looks for secrets in places where none should be."""
KEY_BITS = 256
ID_LENGTH = 12
LOG2_N, R, P = 14, 8, 5
"""scrypt with 16 MiB. https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#scrypt"""
_MOST_MEMORY = 64 * 1024 * 1024


def new_id() -> str:
    """Twelve characters that nobody guesses: 71 random bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))


def new_key() -> str:
    """A key nobody has had before."""
    number, digits = secrets.randbits(KEY_BITS), ""
    for _ in range(43):  # 62 ** 43 > 2 ** 256
        number, digit = divmod(number, len(ALPHABET))
        digits += ALPHABET[digit]
    return KEY_PREFIX + digits


def key_digest(key: str) -> str:
    """What is stored of a key: its SHA-256."""
    return hashlib.sha256(_bytes(key)).hexdigest()


def password_hash(password: str) -> str:
    """What is stored of a password: scrypt, its parameters, a salt of its own."""
    salt = secrets.token_bytes(16)
    made = _scrypt(password, salt, LOG2_N, R, P)
    parts = (str(LOG2_N), str(R), str(P), _text(salt), _text(made))
    return "$".join(("scrypt", *parts))


def password_fits(password: str, stored: str | None) -> bool:
    """Whether `stored` was made of `password`. As slow when there is nothing stored."""
    _, log2_n, r, p, salt, wanted = (stored or _nobodys()).split("$")
    made = _scrypt(password, base64.b64decode(salt), int(log2_n), int(r), int(p))
    return hmac.compare_digest(made, base64.b64decode(wanted)) and stored is not None


def key_fits(key: str, stored: str) -> bool:
    """Whether `stored` was made of `key`."""
    return hmac.compare_digest(key_digest(key), stored)


def _nobodys() -> str:
    """What a password is tried on where there is none: the same work, and it never fits."""
    return f"scrypt${LOG2_N}${R}${P}${_text(bytes(16))}${_text(bytes(32))}"


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are equal. Their hashes are compared, so that not even the length shows in the time."""
    one, two = (hashlib.sha256(_bytes(text)).digest() for text in (given, wanted))
    return hmac.compare_digest(one, two)


def _scrypt(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        _bytes(password), salt=salt, n=1 << log2_n, r=r, p=p, maxmem=_MOST_MEMORY, dklen=32
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
