"""The real processes of one service in a folder of their own: started, killed, and started again as the supervisor does."""

import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from postrider import queue
from postrider.errors import Misconfigured
from postrider.link import connect
from postrider.settings import Settings

RUN = ("import sys; from postrider.cli import main; sys.exit(main())",)
PORTS = (10_000, 32_768)
"""Below those that outgoing connections get: docs.kernel.org/networking/ip-sysctl.html, ip_local_port_range."""
POLL_S = 0.05
READY_S = 60.0
STOP_S = 50.0
"""Longer than a worker drains."""
ASKED_FOR_S = 10.0
"""How long to ask Redis what a killed worker held: it may have been killed as well, and a lease lasts longer."""


def private_env(folder: Path, port: int, settings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a service that knows nothing of the one whose settings are around us."""
    ours = {
        "API_PASSWORD": "selftest",
        "BIND": f"127.0.0.1:{port}",
        "DATA_DIR": str(folder / "data"),
        "SUPERVISOR_ENABLED": "1",  # they end when we are killed, as they do with the supervisor
        **settings,
    }
    names = {field.upper() for field in Settings.model_fields}
    kept = {k: v for k, v in os.environ.items() if k.removesuffix("_FILE") not in names}
    return kept | ours


def free_port() -> int:
    """A port of loopback that nobody listens on, and that no connection made meanwhile is given."""
    while True:
        port = PORTS[0] + secrets.randbelow(PORTS[1] - PORTS[0])
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(eq=False, slots=True)
class Member:
    """One process of the fleet. `name` is redis, api or worker."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self.process.pid


@dataclass(frozen=True, slots=True)
class Kill:
    """A SIGKILL of ours. `at` is seconds since the epoch; `held`: the deliveries that the victim had under way."""

    at: float
    name: str
    held: tuple[str, ...] = ()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Puts off Ctrl-C until what is within is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            raise KeyboardInterrupt


@dataclass
class Fleet:
    """Processes that work in `folder` with `env`. Use as a context manager: it leaves none behind."""

    folder: Path
    env: Mapping[str, str]
    members: list[Member] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.settings = Settings.from_env(self.env, None)
        self._lock = threading.Lock()
        self._over = threading.Event()
        # The kernel ends a process with the thread that started it: this one lives as long as the fleet.
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end(*(m for m in self.members if m.name != "redis"))
            self.end(*(m for m in self.members if m.name == "redis"))
        finally:
            self._over.set()
            self._keeper.join()

    @property
    def log(self) -> Path:
        """What all of them say."""
        return self.folder / "processes.log"

    def start(self, name: str, *command: str, **env: str) -> Member:
        """A new member that runs `postrider NAME`, or `command`; keywords change its environment."""
        run = command or (sys.executable, "-c", *RUN, name)
        full = {**self.env, **env}
        with _undisturbed():  # a process that stands in no list would not be ended
            member = Member(name, run, full, self._spawn(run, full))
            with self._lock:
                self.members.append(member)
        return member

    def _spawn(self, command: tuple[str, ...], env: dict[str, str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own program
                command,
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _keep(self) -> None:
        while not self._over.wait(POLL_S):
            with self._lock:  # what is told to end meanwhile must not come back
                for member in self.members:
                    if member.process.poll() is not None:
                        member.process = self._spawn(member.command, member.env)

    def named(self, name: str) -> list[Member]:
        """Its members of that name."""
        return [member for member in self.members if member.name == name]

    def kill(self, member: Member) -> Kill:
        """SIGKILL, to its children, too; tells what it held. The keeper starts it again."""
        pid, at = member.pid, time.time()
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        held = self.held_by(pid) if member.name == "worker" else ()
        self.kills.append(kill := Kill(at, member.name, held))
        return kill

    def held_by(self, pid: int) -> tuple[str, ...]:
        """The deliveries that this process has under way."""
        give_up_at = time.monotonic() + ASKED_FOR_S
        while True:
            try:
                with connect(self.settings.redis_address) as client:
                    jobs = queue.at_work(client).get(pid, [])
            except queue.ERRORS:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(POLL_S)
            else:
                return tuple("-".join(job.split("-")[:2]) for job in jobs)

    def end(self, *members: Member) -> None:
        """SIGTERM, to all of them at once, and none comes back; SIGKILL for those that do not heed it."""
        give_up_at = time.monotonic() + STOP_S
        with self._lock:
            self.members = [member for member in self.members if member not in members]
        for member in members:
            if member.process.poll() is None:
                member.process.send_signal(signal.SIGTERM)
                member.process.send_signal(signal.SIGCONT)  # a frozen one hears nothing
        for member in members:
            with suppress(subprocess.TimeoutExpired):
                member.process.wait(max(0.0, give_up_at - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(member.pid, signal.SIGKILL)
            member.process.wait()

    def wait_ready(self) -> None:
        """Until the API answers, if there is one, and every worker stands in RQ's books. Raises Misconfigured."""
        give_up_at = time.monotonic() + READY_S
        while not self._is_ready():
            if time.monotonic() > give_up_at:
                raise Misconfigured(f"not ready within {READY_S:.0f} s: {self.log} says why")
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        try:
            if self.named("api") and self._status("/healthz") != 200:
                return False
            with connect(self.settings.redis_address) as client:
                return {worker.pid for worker in self.named("worker")} <= queue.at_work(
                    client
                ).keys()
        except (OSError, http.client.HTTPException, *queue.ERRORS):
            return False

    def _status(self, path: str) -> int:
        with self.http(5) as connection:
            connection.request("GET", path)
            return connection.getresponse().status

    @contextmanager
    def http(self, timeout_s: float) -> Iterator[http.client.HTTPConnection]:
        """A connection to the API, not opened yet."""
        connection = http.client.HTTPConnection(self.settings.bind, timeout=timeout_s)
        try:
            yield connection
        finally:
            connection.close()
