"""go-whatsapp-web-multidevice, "gowa", a sidecar that holds WhatsApp sessions, which it calls devices."""

from collections.abc import Mapping
from typing import Self


class Gowa:
    """One gowa server."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self | None:
        return None
