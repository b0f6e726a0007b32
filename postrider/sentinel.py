"""Redis behind Sentinel: reads such a URL, and asks the Sentinels for the master whenever a connection is made.

A call that meets a lost master fails; nothing is sent to the new one in its place. The next call finds it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

PORT = 26379
ANSWER_WITHIN_S = 0.4
"""For one Sentinel: two that hang, then a master that does, still make a call fail within 3 s."""
_URL = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?:(?P<login>[^@/?#\s]*)@)?(?P<hosts>[^@/?#\s]+)"
    r"/(?P<service>[\w.-]+)(?:/(?P<db>\d+)?)?(?:\?(?P<query>[^#@\s]*))?"
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\],]+)(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """`redis+sentinel://[user][:password]@host[:port],.../service[/db][?sentinel_password=...]`, in its parts."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    tls: bool
    login: str = field(repr=False)
    db: str
    options: str = field(repr=False)
    """The rest of the query, in redis-py's words."""
    sentinel_login: Mapping[str, str] = field(repr=False)

    @classmethod
    def read(cls, url: str) -> Self:
        """Raises ValueError, whose words hold nothing of the URL."""
        found = _URL.fullmatch(url)
        if not found:
            raise ValueError("not a Sentinel URL")
        logins, options = {}, []
        for name, value in parse_qsl(found["query"] or "", keep_blank_values=True):
            if name in {"sentinel_username", "sentinel_password"}:
                logins[name.removeprefix("sentinel_")] = value
            else:
                options.append((name, value))
        return cls(
            hosts=tuple(_host(part) for part in found["hosts"].split(",")),
            service=found["service"],
            tls=found["scheme"] == "rediss",
            login=f"{found['login']}@" if found["login"] else "",
            db=found["db"] or "0",
            options=urlencode(options),
            sentinel_login=logins,
        )

    def at(self, host: str, port: int) -> str:
        """The URL of a master that stands there."""
        scheme = "rediss" if self.tls else "redis"
        where = f"[{host}]" if ":" in host else host
        return f"{scheme}://{self.login}{where}:{port}/{self.db}?{self.options}"

    def settings(self) -> dict[str, Any]:
        """What every connection to a master is made with, whereever it stands."""
        found: Mapping[str, Any] = parse_url(self.at("master", PORT))  # type: ignore[no-untyped-call]
        place = {"host", "port", "connection_class"}
        return {name: value for name, value in found.items() if name not in place}


def _host(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if not found or not 0 < int(found[2] or PORT) < 65_536:
        raise ValueError("not HOST or HOST:PORT")
    return found[1].strip("[]"), int(found[2] or PORT)


class Sentinels:
    """Names the master. Asks one Sentinel after the other, first the one that answered last.

    redis-py's own class does the same with a list that threads reorder under each other, and in time lose from.
    """

    def __init__(self, url: SentinelUrl) -> None:
        self._url = url
        self._first = 0
        tls = {k: v for k, v in url.settings().items() if k.startswith("ssl_")} if url.tls else {}
        self._settings: dict[str, Any] = {
            **tls,
            "ssl": url.tls,
            "socket_timeout": ANSWER_WITHIN_S,
            "socket_connect_timeout": ANSWER_WITHIN_S,
            "retry": Retry(NoBackoff(), 0),
            **url.sentinel_login,
        }

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the master, by redis-py's name for it. Raises MasterNotFoundError."""
        first, count = self._first, len(self._url.hosts)
        said = []
        for n in range(first, first + count):
            host, port = self._url.hosts[n % count]
            try:
                with redis.Redis(host=host, port=port, **self._settings) as sentinel:
                    masters: Any = sentinel.sentinel_masters()
            except redis.RedisError as error:
                said.append(f"{host}:{port}: {error}")
                continue
            match masters.get(service_name):
                case None:
                    said.append(f"{host}:{port} knows no {service_name}")
                case {"is_sdown": False, "is_odown": False, "ip": str(ip), "port": int(at)}:
                    self._first = n % count
                    return ip, at
                case _:
                    said.append(f"{host}:{port} holds the master of {service_name} for dead")
        raise MasterNotFoundError(f"no Sentinel names a master: {', '.join(said)}")


class _Connection(SentinelManagedConnection):
    # Theirs makes a ConnectionError of READONLY, and then nobody knows whether a write was done. It was not.
    read_response = redis.Connection.read_response


class _TlsConnection(SentinelManagedSSLConnection):
    read_response = redis.Connection.read_response


def pool(text: str, **settings: Any) -> redis.ConnectionPool:
    """Connections to the master of the day."""
    url = SentinelUrl.read(text)
    return SentinelConnectionPool(  # type: ignore[no-untyped-call]
        url.service,
        Sentinels(url),
        connection_class=_TlsConnection if url.tls else _Connection,
        **(settings | url.settings()),
    )


def master_url(text: str) -> str:
    """The plain URL of the master of this moment. Asks; raises MasterNotFoundError."""
    url = SentinelUrl.read(text)
    return url.at(*Sentinels(url).discover_master(url.service))
