"""What a Redis must be before we promise anything on it: looked at when a process starts, and by the doctor."""

from collections.abc import Iterator
from typing import Any

import redis
from redis.exceptions import NoPermissionError, ResponseError

from postrider import link
from postrider.errors import Misconfigured
from postrider.settings import Settings


def check(settings: Settings, client: redis.Redis) -> list[str]:
    """Warnings about a Redis that answers; raises Misconfigured when it cannot keep what we promise.

    `client` decodes. Each fault and warning puts its remedy behind the last colon.
    """
    server: Any = client.info()
    version = str(server["redis_version"])
    faults = list(_about_itself(settings, version, server))
    try:
        config: Any = client.config_get(
            "maxmemory-policy", "appendonly", "appendfsync", "min-replicas-to-write"
        )
    except (NoPermissionError, ResponseError):
        config = {}
    faults += _about_its_settings(settings, version, config) if config else ()
    if faults:
        raise Misconfigured(*faults)
    return list(_warnings(settings, version, config))


def _warnings(settings: Settings, version: str, config: Any) -> Iterator[str]:
    if not config:
        wanted = "maxmemory-policy noeviction and appendonly yes"
        if settings.durability == "always" and link.numbers(version) < link.WAITAOF_SINCE:
            wanted = "maxmemory-policy noeviction, appendonly yes and appendfsync always"
        yield f"CONFIG is forbidden here: see to it that Redis has {wanted}"
    elif (
        link.finds_its_master(settings.redis_address) and config.get("min-replicas-to-write") == "0"
    ):
        yield (
            "Redis has min-replicas-to-write 0, so a master cut off from its replicas takes messages that a"
            " failover loses: CONFIG SET min-replicas-to-write 1, min-replicas-max-lag 10, and the same in redis.conf"
        )


def _about_itself(settings: Settings, version: str, server: Any) -> Iterator[str]:
    if host := link.open_to_others(settings.redis_address):
        yield (
            f"REDIS_URL: {host} is another machine and the URL holds no password, so anyone"
            " who reaches it reads and writes your messages: set requirepass there, and the password here"
        )
    if link.numbers(version) < link.OLDEST:
        yield f"Redis {version} is too old: 7.0 or newer is needed"
    if server["role"] != "master":
        yield (
            f"Redis at {link.place(settings.redis_address)} is a replica, which takes no writes:"
            " name its master in REDIS_URL, or its Sentinels with redis+sentinel"
        )


def _about_its_settings(settings: Settings, version: str, config: Any) -> Iterator[str]:
    if (policy := config.get("maxmemory-policy")) != "noeviction":
        yield (
            f"Redis has maxmemory-policy {policy}, which drops waiting messages when memory runs"
            " out: CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
        )
    if settings.durability == "none":
        return
    fsync = config.get("appendfsync")
    if config.get("appendonly") != "yes":
        yield (
            "Redis keeps no append-only file, so a restart loses messages: CONFIG SET appendonly yes,"
            " and the same in redis.conf; or accept the loss with DURABILITY=none"
        )
    elif fsync == "no":
        yield (
            "Redis has appendfsync no, so a power cut loses half a minute of messages: CONFIG SET appendfsync"
            f" {settings.durability}, and the same in redis.conf; or accept the loss with DURABILITY=none"
        )
    elif (
        settings.durability == "always"
        and fsync != "always"
        and link.numbers(version) < link.WAITAOF_SINCE
    ):
        yield (
            f"Redis {version} has appendfsync {fsync} and cannot say when a message is on disk, as"
            " DURABILITY=always promises: CONFIG SET appendfsync always, and the same in redis.conf, or take 7.2 or newer"
        )
