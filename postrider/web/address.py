"""Where a request comes from: the peer, or, behind a proxy of ours, whom that proxy names.

werkzeug's ProxyFix counts hops and asks not who the peer is, and gunicorn leaves the address as it is: so anybody who
reaches the port directly could name any address, and guess passwords from all of them.
"""

import functools
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address


@functools.lru_cache(maxsize=1024)  # the same few ask again and again
def origin(peer: str, forwarded_for: str, trusted: tuple[IPv4Network | IPv6Network, ...]) -> str:
    """The address of who asks. Read from the right: each proxy adds who asked it, and only ours are believed."""
    at = peer
    for named in reversed(forwarded_for.split(",")):
        if not _is_trusted(at, trusted):
            return at
        if _ip(named.strip()) is None:
            return at
        at = named.strip()
    return at


def _is_trusted(address: str, trusted: Sequence[IPv4Network | IPv6Network]) -> bool:
    ip = _ip(address)
    return ip is not None and any(ip in network for network in trusted)


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return mapped or ip
