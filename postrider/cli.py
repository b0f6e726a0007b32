"""The `postrider` command: one function per subcommand, each giving the exit code."""

import argparse
import errno
import fcntl
import http.client
import os
import shlex
import signal
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

from postrider import demands, embedded, logs, sentry
from postrider.accounts import open_accounts
from postrider.errors import Misconfigured
from postrider.settings import Settings
from postrider.spelling import misspelt

READY_WAIT_S = 30
REDIS_WAIT_S = 15
"""For the embedded Redis to start; a slow machine needs seconds for Python alone."""
PORT_WAIT_S = 3


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """What `argv` is parsed with. Every subcommand carries its function as `run`."""
    parser = argparse.ArgumentParser(
        prog="postrider", description="A self-hosted, scheduled multi-messenger dispatcher."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    processes = {
        redis: "serve DATA_DIR with the embedded Redis",
        api: "serve the HTTP API",
        worker: "send what is due",
        courier: "post callbacks",
        keeper: "look after linked phones",
    }
    for run, what in processes.items():
        commands.add_parser(run.__name__, help=what, description=what).set_defaults(run=run)

    # What ./run.sh asks for, and nobody else: no help, so that they are not listed.
    for run in (preflight, supervise, await_ready):
        commands.add_parser(run.__name__.replace("_", "-")).set_defaults(run=run)

    # What people type brings tables and colours along: 0.2 s and memory that no process of ours shall take.
    if not argv or argv[0] not in commands.choices:
        from postrider import selftest  # noqa: PLC0415
        from postrider.commands import EVERY  # noqa: PLC0415

        for module in (*EVERY, selftest):
            module.add_commands(commands)
        if argv and not argv[0].startswith("-") and argv[0] not in commands.choices:
            near = get_close_matches(argv[0], commands.choices, 1)
            parser.error(
                f"there is no {argv[0]!r}{f'; do you mean {near[0]}?' if near else ''}"
                " (postrider --help lists them all)"
            )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 for done, 1 for failed, 2 for settings or a Redis that we refuse: one fault a line."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser(argv).parse_args(argv)
    started_at = time.monotonic()
    try:
        return int(args.run(args))
    except Misconfigured as error:
        for fault in error.faults:
            sys.stderr.write(f"postrider: {fault}\n")
        return 2
    finally:
        if _is_supervised():  # it restarts at once what could not start; once a second will do
            time.sleep(max(0, started_at + 1 - time.monotonic()))


def redis(_: argparse.Namespace) -> int:
    """The embedded Redis: becomes the server, so that signals reach it."""
    _end_with_supervisor()
    return embedded.run(Settings.from_env())


def api(_: argparse.Namespace) -> int:
    """The API: becomes gunicorn."""
    _end_with_supervisor()
    settings = Settings.from_env()
    open_accounts(settings)  # its faults are told once, before there are processes
    _demand_redis(settings)
    _make_keys(settings)
    flags = ["--bind", settings.bind, "--workers", str(settings.api_processes)]
    if settings.tls_cert_file and settings.tls_key_file:
        flags += [
            "--certfile",
            str(settings.tls_cert_file),
            "--keyfile",
            str(settings.tls_key_file),
        ]
    # By path: imported by name, it would bring all of postrider.web into the parent process.
    flags += ["--config", f"file:{Path(__file__).parent / 'web' / 'gunicorn.py'}"]
    command = [sys.executable, "-m", "gunicorn", *flags, "app:app"]
    os.execv(sys.executable, command)  # noqa: S606 - no shell is the point


def worker(_: argparse.Namespace) -> int:
    """One worker process."""
    settings = _begun()
    from postrider.worker import run  # noqa: PLC0415 - the other commands start without it

    return run(settings)


def courier(_: argparse.Namespace) -> int:
    """One courier process."""
    settings = _begun(sends=False)
    from postrider.courier import run  # noqa: PLC0415 - the other commands start without it

    return run(settings)


def keeper(_: argparse.Namespace) -> int:
    """One keeper process."""
    settings = _begun()
    from postrider.keeper import run  # noqa: PLC0415 - the other commands start without it

    return run(settings)


def _begun(*, sends: bool = True) -> Settings:
    """The settings of a process of ours that is about to work. `sends`: it needs accounts, whose faults are told now."""
    _end_with_supervisor()
    settings = Settings.from_env()
    _demand_redis(settings)
    if sends:
        open_accounts(settings)
    logs.configure(settings)
    sentry.start(settings)
    return settings


def preflight(_: argparse.Namespace) -> int:
    """Refuses what cannot come up, before anything is started; prints what ./run.sh needs to know."""
    settings = Settings.from_env()
    faults = []
    if settings.api_password is None:
        faults.append("API_PASSWORD is not set: choose one, in .env or in the environment")
    files = filter(None, (settings.tls_cert_file, settings.tls_key_file))
    faults += [f"TLS: cannot read {path}" for path in files if not os.access(path, os.R_OK)]
    try:
        open_accounts(settings)
    except Misconfigured as error:
        faults += error.faults
    try:
        _demand_free_port(settings)
        if settings.redis_url is None:
            embedded.preflight(settings)
            os.close(_alone(settings))
        else:
            _demand_redis(settings, timeout_s=5)
    except Misconfigured as error:
        faults += error.faults
    if faults:
        raise Misconfigured(*faults)
    for words in misspelt():
        sys.stderr.write(f"postrider: .env: {words}\n")
    told = {
        "URL": settings.url,
        "API_PROCESSES": settings.api_processes,
        "WORKERS": settings.workers,
        "EMBEDDED_REDIS": str(settings.redis_url is None).lower(),
        "SANDBOX": "on" if settings.sandbox else "off",
        "KEEPER": str(bool(settings.waha_url or settings.gowa_url)).lower(),
    }
    for name, value in told.items():
        sys.stdout.write(f"{name}={shlex.quote(str(value))}\n")
    return 0


def supervise(_: argparse.Namespace) -> int:
    """supervisord on the spot, except that it ends with ./run.sh and sees a death within 0.1 s.

    Its own loop looks once a second, and twice for one death: too slow to be back within 2 s.
    """
    from supervisor.options import ServerOptions  # type: ignore[import-untyped]  # noqa: PLC0415
    from supervisor.supervisord import go  # type: ignore[import-untyped]  # noqa: PLC0415

    embedded.die_with_parent(signal.SIGTERM)
    _alone(Settings.from_env())
    options = ServerOptions()
    options.realize(["-n", "-c", "supervisord.conf"])
    options.first, options.test = True, False
    # Nobody reads the file with its id, and on its way out it deletes whatever stands at that path.
    options.write_pidfile = lambda: None
    poll = options.poller.poll
    options.poller.poll = lambda timeout: poll(min(timeout, 0.1))
    go(options)
    return 0


def _alone(settings: Settings) -> int:
    """A file that is locked as long as it is open, so that no other supervisor runs on this DATA_DIR.

    The end of either would end the Redis of both. What this process starts does not inherit it. Raises Misconfigured.
    """
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(settings.data_dir / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
    give_up_at = time.monotonic() + PORT_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it runs, or is about to end
            if time.monotonic() > give_up_at:
                raise Misconfigured(
                    f"DATA_DIR: Postrider already runs on {settings.data_dir.resolve()}: end it, or set DATA_DIR to another folder"
                ) from None
            time.sleep(0.1)
        else:
            return lock


def await_ready(_: argparse.Namespace) -> int:
    """0 once the API answers and, where we start any, a worker is there.

    Not once it is ready: it is not while Redis is full, and only what runs can make room.
    """
    from postrider import link, queue  # noqa: PLC0415 - the other commands start without them

    settings = Settings.from_env()
    embedded.die_with_parent(signal.SIGTERM)
    embedded.wait_ready(settings, REDIS_WAIT_S)
    client = link.connect(settings.redis_address)
    give_up_at = time.monotonic() + READY_WAIT_S
    while time.monotonic() < give_up_at:
        with suppress(OSError, http.client.HTTPException, *queue.ERRORS):
            if _status(settings.url, "/healthz") == 200 and (
                not settings.workers or queue.any_worker(client)
            ):
                return 0
        time.sleep(0.05)
    return 1


def _status(url: str, path: str) -> int:
    """The status that our own API answers with; who signed its certificate is not the question."""
    address = urlsplit(url).netloc
    if url.startswith("https:"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            address, timeout=5, context=context
        )
    else:
        connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _demand_redis(settings: Settings, timeout_s: float = READY_WAIT_S) -> None:
    """Redis answers and keeps what we promise, or Misconfigured says what is wrong with it."""
    for warning in demands.check(settings, embedded.wait_ready(settings, timeout_s)):
        sys.stderr.write(f"postrider: {warning}\n")


def _make_keys(settings: Settings) -> None:
    """There are keys, or Misconfigured says why not."""
    from postrider.keys import Keys  # noqa: PLC0415 - the other commands start without it
    from postrider.vault import Vault  # noqa: PLC0415

    try:
        Keys(settings.keys_dir).newest()
        if settings.encrypt_at_rest:
            Vault(settings.keys_dir / "at-rest").newest_id()
    except (OSError, ValueError) as error:
        raise Misconfigured(
            f"DATA_DIR: the keys in {settings.keys_dir} cannot be read or made: {error}"
        ) from None


def _demand_free_port(settings: Settings) -> None:
    """Nobody listens where the API will; waits a moment for one that is about to end."""
    give_up_at = time.monotonic() + PORT_WAIT_S
    while True:
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                settings.host.strip("[]"), settings.port, type=socket.SOCK_STREAM
            )[0]
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return
        except OSError as error:
            if time.monotonic() > give_up_at:
                busy = error.errno == errno.EADDRINUSE
                end = "end what runs there (Postrider itself, perhaps) or " if busy else ""
                raise Misconfigured(
                    f"BIND: cannot listen on {settings.bind}: {error.strerror}; {end}set BIND to another HOST:PORT"
                ) from None
            time.sleep(0.1)


def _end_with_supervisor() -> None:
    """Under supervisord, a SIGKILL to it ends us too; by hand, we stay."""
    if _is_supervised():
        embedded.die_with_parent(signal.SIGTERM)


def _is_supervised() -> bool:
    return "SUPERVISOR_ENABLED" in os.environ
