"""What one setting's value must look like; each gives it back, or raises ValueError, whose words hold no secret."""

import base64
import ipaddress
import re
import zoneinfo

from pydantic import SecretStr

from messengers import letters, mail
from messengers.apprise import read_targets
from postrider import link
from postrider.guard import Guard


def known_zone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{name!r} is no time zone; use an IANA name such as Europe/Berlin"
        ) from None
    return name


def web_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
        raise ValueError("write it as https://HOST or http://HOST:PORT")
    return url


def rate(per_s: float) -> float:
    if per_s and not 1e-7 <= per_s <= 1e6:
        raise ValueError("must be 0, for no limit, or from 0.0000001 to 1000000")
    return per_s


def switch(value: object) -> object:
    return {"on": True, "off": False}.get(str(value).lower(), value)


def redis_url(url: SecretStr | None) -> SecretStr | None:
    if url and not link.can_be_read(url.get_secret_value()):
        raise ValueError(
            "cannot be read; write it as redis://:PASSWORD@HOST:6379, or, with Sentinel, as"
            " redis+sentinel://:PASSWORD@HOST1:26379,HOST2:26379/SERVICE; in the password %23 for #, %2F for /"
        )
    return url


def dsn(url: SecretStr | None) -> SecretStr | None:
    if url and not re.fullmatch(r"https?://[^\s/@]+@[^\s/]+(/\S*)?/\d+", url.get_secret_value()):
        raise ValueError("cannot be read; copy it from the project's settings: https://KEY@HOST/ID")
    return url


def alert_urls(listed: SecretStr | None) -> SecretStr | None:
    for n, url in enumerate(urls(listed), 1):
        if not re.match(r"[A-Za-z][\w+.-]*://[^\s/?]", url):
            raise ValueError(f"number {n} is no URL as Apprise has them: SCHEME://...")
    return listed


def targets(listed: SecretStr | None) -> SecretStr | None:
    if listed:
        read_targets(listed.get_secret_value())  # which says what is wrong with it
    return listed


def urls(listed: SecretStr | None) -> list[str]:
    """Those between the spaces, each a secret."""
    return listed.get_secret_value().split() if listed else []


def telegram_token(token: SecretStr | None) -> SecretStr | None:
    value = token.get_secret_value().strip() if token else ""
    if value and not re.fullmatch(r"\d+:\S+", value):
        raise ValueError("write it as BotFather gave it: digits, a colon, letters")
    return token


def telegram_secret(secret: SecretStr | None) -> SecretStr | None:
    if secret and not re.fullmatch(r"[A-Za-z0-9_-]{1,256}", secret.get_secret_value()):
        raise ValueError("must be 1 to 256 of A-Z, a-z, 0-9, _ and -")
    return secret


def smtp_url(url: SecretStr | None) -> SecretStr | None:
    if url:
        letters.Server.read(url.get_secret_value())  # which says what is wrong with it
    return url


def senders(text: str | None) -> str | None:
    try:
        boxes = letters.mailboxes(text) if text else ()
    except ValueError as error:
        raise ValueError(
            f"{error}; write it as Shop <shop@example.org>, News <news@example.org>"
        ) from None
    if text and not boxes:
        raise ValueError("names nobody")
    return text


def header_line(text: str | None) -> str | None:
    if text and (fault := letters.line_fault(text)):
        raise ValueError(fault)
    return text


def unsubscribe_url(url: str | None) -> str | None:
    if url and (fault := mail.url_fault(re.sub(r"\{(uuid|id)\}", "x", url))):
        raise ValueError(fault)
    return url


def host_port(bind: str) -> str:
    host, colon, port = bind.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError("write it as HOST:PORT, for example 127.0.0.1:5000")
    return bind


def networks(text: str) -> str:
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            ipaddress.ip_network(part)
        except ValueError:
            raise ValueError(
                f"{part!r} is no address; write addresses or networks, 10.0.0.1,10.1.0.0/16"
            ) from None
    return text


def guarded(text: str) -> str:
    Guard.read(text)  # which says what is wrong with it
    return text


def webhook_secret(secret: SecretStr | None) -> SecretStr | None:
    if secret is None:
        return None
    every = secret.get_secret_value().split()
    if every and all(map(is_webhook_secret, every)):
        return secret
    raise ValueError(
        "write it as whsec_ and 24 to 64 random bytes in base64; ./run.sh makes one."
        " To change it, put the old one behind the new one, with a space between"
    )


def is_webhook_secret(text: str) -> bool:
    prefix, _, key = text.partition("_")
    try:
        return prefix == "whsec" and 24 <= len(base64.b64decode(key, validate=True)) <= 64
    except ValueError:
        return False


def gap(value: str) -> str:
    least, dash, most = value.partition("-")
    if not re.fullmatch(r"\d{1,5}(\.\d+)?(-\d{1,5}(\.\d+)?)?", value) or (
        dash and float(most) < float(least)
    ):
        raise ValueError("write seconds as LEAST-MOST, such as 3-12, or 0")
    return value
