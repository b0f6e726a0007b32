"""Links to files that anybody may follow until they expire: signed, so that nobody can make one or change one."""

import base64
import hashlib
import hmac
import os
import secrets
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from postrider.ring import Ring

KEY_BYTES = 32
VALID_S = 86_400
"""For a delivery that is sent now: its messenger may fetch late, and more than once."""
ROUND_S = 3_600
"""Links made within it are the same, so that what remembers them by their URL fetches once."""


def ring(keys_dir: Path) -> Ring[bytes]:
    """The keys that links are signed with."""
    return Ring(keys_dir / "links", ".key", lambda: secrets.token_bytes(KEY_BYTES), bytes)


class Links:
    """Makes and checks them, with keys of their own in `keys_dir`: the newest signs, all of them are good."""

    def __init__(self, public_url: str, keys_dir: Path) -> None:
        self._base = public_url.rstrip("/")
        self._before = keys_dir / "links.key"
        self.ring = ring(keys_dir)
        self._taken_over = False

    def url(self, id_: str, name: str, now: float | None = None) -> str:
        """A link to a file, good for `VALID_S` seconds at least. Raises OSError."""
        at = time.time() if now is None else now
        until = (int(at + VALID_S) // ROUND_S + 1) * ROUND_S
        self._take_over()
        sig = _signed(self.ring.newest(), id_, name, str(until))
        return f"{self._base}/files/{id_}/{quote(name, safe='')}?until={until}&sig={sig}"

    def opens(self, id_: str, name: str, until: str, sig: str, now: datetime) -> bool:
        """Whether a link with these parts is one of ours, and still good. Raises OSError."""
        self._take_over()
        given = sig.encode("utf-8", "replace")
        every = [_signed(key, id_, name, until).encode() for key in self.ring.every()]
        ours = [hmac.compare_digest(one, given) for one in every]
        # Whether it has expired counts only for what we have signed, and so is a number.
        return any(ours) and now.timestamp() < int(until)

    def _take_over(self) -> None:
        """The one key that there was before becomes the first of many: links that were made with it stay good."""
        if self._taken_over:
            return
        if self._before.exists():
            self.ring.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Another process may be at it, too.
            with suppress(FileExistsError, FileNotFoundError):
                os.link(self._before, self.ring.folder / "00000001.key")
            self._before.unlink(missing_ok=True)
        self._taken_over = True


def _signed(key: bytes, id_: str, name: str, until: str) -> str:
    # No part may hold NUL, so that no two links are signed alike: what a URL carries of it is caught here.
    said = "\0".join(part.replace("\0", "\ufffd") for part in (id_, name, until))
    digest = hmac.digest(key, said.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
