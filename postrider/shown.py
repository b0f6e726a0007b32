"""QR codes that several processes show at once, of sidecars whose every answer is a new code that ends the one before.

Kept no longer than a code lives, and encrypted: whoever scans one is in.

Redis
  pr:session:shown:<session>         string  the code, sealed; gone when it has died
  pr:session:shown:<session>:asked   string  there while one process asks for the next
"""

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

import redis
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from messengers.phones import Code, Trouble
from postrider.scripts import unavailable_when_redis_is

NONCE = 12
ASKS_S = 15.0
"""Seconds that one process may take to ask; longer than a call and its picture."""
LOOK_S = 0.2
UNKNOWN_S = 20.0
"""Seconds that a code lives whose sidecar does not say."""


class Shown:
    """The codes that are shown now, in one Redis; `secret`: what they are sealed by."""

    def __init__(self, client: redis.Redis, secret: str) -> None:
        self.redis = client
        self._aead = AESGCM(hashlib.sha256(b"shown codes\0" + secret.encode()).digest())

    @unavailable_when_redis_is
    def code(self, session: str, ask: Callable[[], Code | Trouble]) -> Code | Trouble:
        """The one that is shown; if there is none, what `ask` gives, which one process does at a time."""
        client: Any = self.redis
        key, give_up_at = f"pr:session:shown:{session}", time.monotonic() + ASKS_S
        while (found := self._kept(key, session)) is None:
            if client.set(f"{key}:asked", 1, nx=True, px=int(ASKS_S * 1000)):
                try:
                    new = ask()
                    if isinstance(new, Code):
                        self._keep(key, session, new)
                    return new
                finally:
                    client.delete(f"{key}:asked")
            if time.monotonic() > give_up_at:
                return Trouble("later", "the next code is being made")
            time.sleep(LOOK_S)
        return found

    @unavailable_when_redis_is
    def drop(self, session: str) -> None:
        """Forgets it."""
        client: Any = self.redis
        client.delete(f"pr:session:shown:{session}")

    def _kept(self, key: str, session: str) -> Code | None:
        pipe: Any = self.redis.pipeline()
        pipe.get(key).pttl(key)
        kept, left_ms = pipe.execute()
        if not kept or left_ms <= 0:
            return None
        try:
            told = json.loads(
                self._aead.decrypt(kept[:NONCE], kept[NONCE:], session.encode()).decode()
            )
        except InvalidTag:  # under another secret
            return None
        return Code(base64.b64decode(told["png"]), told["text"], left_ms / 1000)

    def _keep(self, key: str, session: str, code: Code) -> None:
        told = {"png": base64.b64encode(code.png).decode(), "text": code.text}
        nonce = os.urandom(NONCE)
        sealed = nonce + self._aead.encrypt(nonce, json.dumps(told).encode(), session.encode())
        self.redis.set(key, sealed, px=max(1, int((code.lives_s or UNKNOWN_S) * 1000)))
