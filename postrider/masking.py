"""What must not be told, taken out of what is: every secret that the settings hold, and most of each phone number."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from pydantic import SecretStr

from messengers.apprise import secrets_in
from messengers.letters import Server
from postrider import accounts
from postrider.settings import Settings

HIDDEN = "***"
SHORTEST = 6
"""Characters: what is shorter stands in too many words that are no secret."""
_IN_URLS = "!#$%&'()*+,/:;=?@[]~"
_PHONE = re.compile(r"(?<![\w.+-])\+?\d{8,15}(?![\w-]|\.\d)")


class Mask:
    """Hides secrets in texts, however they are written there."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST}
        longest_first = sorted(forms, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @classmethod
    def of(cls, settings: Settings) -> "Mask":
        """One that knows every secret of the settings and of the accounts' file."""
        own = [*accounts.secrets(settings)]
        inside = (part for secret in own if "://" in secret for part in _of_url(secret))
        return cls((*_of_settings(settings), *own, *inside))

    def __call__(self, text: str) -> str:
        """`text` without secrets, and with no more than the ends of what may be a phone number."""
        return _PHONE.sub(_ends, self._secrets.sub(HIDDEN, text))

    def deep(self, value: Any) -> Any:
        """The same for every text in what JSON could hold, names included; anything else as a text."""
        match value:
            case str():
                return self(value)
            case dict():
                return {self(str(key)): self.deep(found) for key, found in value.items()}
            case list() | tuple():
                return [self.deep(found) for found in value]
            case None | bool() | int() | float():
                return value
        return self(str(value))


def _ends(found: re.Match[str]) -> str:
    return f"{found[0][:3]}{HIDDEN}{found[0][-2:]}"


def _of_settings(settings: Settings) -> Iterator[str]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
    yield from settings.webhook_secrets
    if settings.api_password:
        login = f"{settings.api_user}:{settings.api_password.get_secret_value()}"
        yield base64.b64encode(login.encode()).decode()
    for url in (settings.redis_address, *settings.alert_places, *settings.apprise_urls):
        yield from secrets_in(url)
    if settings.smtp_url:
        yield from _of_smtp(settings.smtp_url.get_secret_value())
    if settings.sentry_dsn:
        yield from secrets_in(settings.sentry_dsn.get_secret_value())


def _of_url(url: str) -> Iterator[str]:
    return _of_smtp(url) if url.startswith("smtp") else secrets_in(url)


def _of_smtp(url: str) -> Iterator[str]:
    """Its login, also as it goes over the wire, where a server may quote it."""
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if password:
        yield from (parts.netloc.rpartition("@")[0], parts.password or "")
        yield from Server(parts.hostname or "", 0, "off", user, password).secrets()


def _forms(secret: str) -> set[str]:
    """How a secret may be written: as it is, in a URL (HTTP clients differ), in JSON, by Python."""
    return {
        *(secret, quote(secret, safe=""), quote(secret), quote(secret, safe=_IN_URLS)),
        *(quote_plus(secret), repr(secret)[1:-1]),
        *(json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]),
    }
