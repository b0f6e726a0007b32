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

KEY_BYTES = 32
VALID_S = 86_400
"""For a delivery that is sent now: its messenger may fetch late, and more than once."""
ROUND_S = 3_600
"""Links made within it are the same, so that what remembers them by their URL fetches once."""


class Links:
    """Makes and checks them, with a key of its own in `folder`."""

    def __init__(self, public_url: str, folder: Path) -> None:
        self._base = public_url.rstrip("/")
        self._folder = folder
        self._key = b""

    def url(self, id_: str, name: str, now: float | None = None) -> str:
        """A link to a file, good for `VALID_S` seconds at least. Raises OSError."""
        at = time.time() if now is None else now
        until = (int(at + VALID_S) // ROUND_S + 1) * ROUND_S
        sig = self._sign(id_, name, str(until))
        return f"{self._base}/files/{id_}/{quote(name, safe='')}?until={until}&sig={sig}"

    def opens(self, id_: str, name: str, until: str, sig: str, now: datetime) -> bool:
        """Whether a link with these parts is one of ours, and still good. Raises OSError."""
        ours = self._sign(id_, name, until)
        given = sig.encode("utf-8", "replace")
        # Whether it has expired counts only for what we have signed, and so is a number.
        return hmac.compare_digest(ours.encode(), given) and now.timestamp() < int(until)

    def _sign(self, id_: str, name: str, until: str) -> str:
        # No part may hold NUL, so that no two links are signed alike: what a URL carries of it is caught here.
        said = "\0".join(part.replace("\0", "\ufffd") for part in (id_, name, until))
        digest = hmac.digest(self._secret(), said.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def _secret(self) -> bytes:
        """The key; made when there is none, by whichever process is first."""
        if not self._key:
            path = self._folder / "links.key"
            if not path.exists():
                self._make(path)
            self._key = path.read_bytes()
        return self._key

    def _make(self, path: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = path.with_name(f".links.{secrets.token_hex(8)}")
        fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # somebody else was first, and theirs counts
                os.link(own, path)  # whole at once: nobody reads half a key
        finally:
            own.unlink()
