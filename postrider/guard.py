"""Which addresses a client may have us call: public ones, and what a setting opens. Opens no connection.

A URL is read strictly and written anew from its parts, so that no two programs can read it in two ways. Networks:
https://www.iana.org/assignments/iana-ipv4-special-registry, https://www.iana.org/assignments/iana-ipv6-special-registry
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Self

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL = 2_000
SETTING = "CALLBACK_ALLOW_PRIVATE"
PORTS = {"http": 80, "https": 443}

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?(?P<path>[/?][!-~]*)?",
    re.ASCII | re.IGNORECASE,
)
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.(?!-)[a-z0-9_-]{1,63})*", re.ASCII)
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.ASCII)
_INWARD_NAMES = ("localhost", "local", "internal")
"""Last labels of names that only ever mean this machine or its network."""

_NOT_PUBLIC: tuple[Network, ...] = tuple(
    map(
        ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            "168.63.129.16/32",  # in the public range, and yet what Azure tells its machines secrets from
            *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
        ),
    )
)
_PUBLIC_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NEVER: tuple[Network, ...] = tuple(
    map(ip_network, ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "ff00::/8"))
)
"""No single machine; no setting opens it."""


class Refused(Exception):
    """An address that is not to be called; in words for whoever named it."""


@dataclass(frozen=True, slots=True)
class Target:
    """An http(s) URL in its parts. `host` is lower case, an IPv6 address without brackets; `path` holds the query, too."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The URL, in the one way in which we write it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def address(self) -> Address | None:
        """What `host` is when it is no name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Guard:
    """What may be called besides public addresses: everything, these networks, these hosts by name."""

    everything: bool = False
    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    setting: str = SETTING
    """The name of the setting that says so, for who is refused."""

    @classmethod
    def read(cls, text: str, setting: str = SETTING) -> Self:
        """`off`, `on`, or networks, addresses and host names between commas. Raises ValueError."""
        if text in {"on", "off"}:
            return cls(everything=text == "on", setting=setting)
        networks, hosts = [], set()
        for part in filter(None, (part.strip().lower() for part in text.split(","))):
            try:
                networks.append(ip_network(part))
            except ValueError:
                if not _is_name(part):
                    raise ValueError(
                        f"{part!r} is neither on, off, a network such as 10.0.0.0/8, nor a host name"
                    ) from None
                hosts.add(part)
        return cls(networks=tuple(networks), hosts=frozenset(hosts), setting=setting)

    def target(self, url: str) -> Target:
        """What `url` names. Raises Refused for all that can be told without asking a name server."""
        target = _read(url)
        address = target.address
        if address is not None:
            self.check(target, [address])
        elif target.host.rpartition(".")[2] in _INWARD_NAMES and not self._opens(target.host):
            raise Refused(f"names {target.host}, which is not public; {self.setting} may open it")
        return target

    def check(self, target: Target, addresses: Iterable[Address]) -> None:
        """Raises Refused unless every one of them, to which `target` has led, may be called."""
        for address in addresses:
            if not self._may_call(target, address):
                what = "names" if target.address else "leads to"
                raise Refused(f"{what} an address that is not public; {self.setting} may open it")

    def _opens(self, host: str) -> bool:
        return self.everything or host in self.hosts

    def _may_call(self, target: Target, address: Address) -> bool:
        address = _embedded(address)
        if _is_in(address, _NEVER):
            return False
        if self._opens(target.host) or _is_in(address, self.networks):
            return True
        if isinstance(address, IPv6Address) and address not in _PUBLIC_V6:
            return False
        return not _is_in(address, _NOT_PUBLIC)


def _read(url: str) -> Target:
    if len(url) > LONGEST_URL:
        raise Refused(f"is longer than {LONGEST_URL} characters")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise Refused("holds a character that no URL has; write names in punycode, others as %XX")
    match = _URL.fullmatch(url.partition("#")[0])
    if match is None:
        if "@" in re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]:
            raise Refused("must not hold a user name or password")
        raise Refused("write it as https://HOST/PATH")
    scheme, host = match["scheme"].lower(), match["host"].lower()
    port = int(match["port"] or PORTS[scheme])
    if not 0 < port < 65_536:
        raise Refused("names a port that is not between 1 and 65535")
    path = match["path"] or "/"
    return Target(scheme, _host(host), port, path if path.startswith("/") else f"/{path}")


def _host(host: str) -> str:
    """A name without the dot at its end, or an address as everybody writes it. Raises Refused."""
    if host.startswith("["):
        try:
            return str(IPv6Address(host[1:-1]))
        except ValueError:
            raise Refused("names no IPv6 address in its brackets") from None
    host = host.removesuffix(".")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # 2130706433, 0x7f.1 and 0177.0.0.1 are 127.0.0.1 to some programs, and something else to others.
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise Refused("names no IPv4 address in four plain numbers") from None
    if not _is_name(host):
        raise Refused("names no host")
    return host


def _is_name(host: str) -> bool:
    return len(host) <= 253 and _HOST.fullmatch(host) is not None


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it is mapped or translated; else itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == n.version and address in n for n in networks)
