"""Where one measurement takes place: a Redis and a messenger of its own, and the processes that are measured."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import redis
import requests
from processes import Tree

from postrider import embedded

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".benchmarks"
"""What the peers are installed into."""
TOKEN = "1:x"
QUIET_SHARE = 0.15
"""Of one core: who uses less is idle, though it may poll."""
STALLED_S = 30.0
"""Nothing new for so long: it will not come any more."""


class Failed(Exception):
    """A measurement that gave no figure; in words for the table."""


def wait_until(condition: Callable[[], object], within_s: float, what: str) -> None:
    give_up_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise Failed(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.02)


class Stage:
    """Use as a context manager: nothing that it started outlives it."""

    def __init__(self, delay_ms: float = 0, *, tls: bool = False) -> None:
        self.delay_ms = delay_ms
        self.tls = tls
        self.tree = Tree()
        """The processes that are measured."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # Short: the path of a socket has 107 bytes at most.
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            self.folder = Path(name)
            self.socket = self.folder / "s"
            self.redis = stack.enter_context(self._redis())
            self.url = stack.enter_context(self._sink())
            stack.callback(self.tree.end)
            self._http = stack.enter_context(requests.Session())
            self._http.trust_env = False
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def _redis(self) -> Iterator[redis.Redis]:
        flags = ["--port", "0", "--unixsocket", str(self.socket), "--save", ""]
        flags += ["--appendonly", "yes", "--appendfsync", "everysec"]
        self.redis_tree = Tree()
        self.redis_tree.start([embedded.find_server(), *flags], self.folder, self.folder / "redis")
        try:
            with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=60) as client:
                wait_until(lambda: _answers(client), 10, "Redis")
                yield client
        finally:
            self.redis_tree.end()

    @contextlib.contextmanager
    def _sink(self) -> Iterator[str]:
        command = [sys.executable, HERE / "sink.py", "--delay-ms", str(self.delay_ms)]
        if self.tls:
            command += ["--tls", *self._certificate()]
        sink = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            if not select.select([sink.stdout], [], [], 10)[0]:
                raise Failed("the sink did not start")
            scheme = "https" if self.tls else "http"
            yield f"{scheme}://127.0.0.1:{int(sink.stdout.readline())}"
        finally:
            sink.kill()
            sink.communicate()

    def _certificate(self) -> list[Path]:
        """A certificate that nobody vouches for, and its key."""
        made = [self.folder / "cert.pem", self.folder / "key.pem"]
        kind = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        command = ["openssl", "req", "-x509", *kind, "-out", made[0], "-keyout", made[1]]
        try:
            subprocess.run(command, capture_output=True, timeout=30, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise Failed(f"no certificate: {error}") from None
        return made

    @property
    def env(self) -> dict[str, str]:
        """What the processes are told."""
        return {
            "REDIS_URL": f"unix://{self.socket}",
            "API_PASSWORD": "benchmark",
            "DATA_DIR": str(self.folder),
            "TELEGRAM_BOT_TOKEN": TOKEN,
            "TELEGRAM_API_URL": self.url,
            # The messenger's own limits would be all there is to see.
            "TELEGRAM_RATE": "0",
            "TELEGRAM_RECIPIENT_RATE": "0",
            "BENCH_SOCKET": str(self.socket),
            "BENCH_URL": f"{self.url}/bot{TOKEN}/sendMessage",
        }

    def start(self, command: Sequence[str | Path], **more_env: str) -> None:
        """One more process to be measured."""
        log = self.folder / f"log-{len(self.tree.leaders)}"
        self.tree.start(command, HERE / "peers", log, os.environ | self.env | more_env)

    def run(self, command: Sequence[str | Path], within_s: float = 300) -> dict[str, Any]:
        """What a process, not measured, prints as JSON."""
        try:
            done = subprocess.run(
                command,
                env=os.environ | self.env,
                cwd=HERE / "peers",
                capture_output=True,
                text=True,
                timeout=within_s,
                check=True,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{Path(command[1]).name} {command[2]}: not within {within_s} s") from None
        except subprocess.CalledProcessError as error:
            raise Failed(_last_line(error.stderr)) from None
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    # -- the sink

    def ask_sink(self, path: str) -> Any:
        return self._http.get(f"{self.url}/{path}", timeout=30).json()

    def wait_for(self, count: int) -> None:
        """Until the sink got so many."""
        seen, since = -1, time.monotonic()
        while (now_seen := self.ask_sink("count")) < count:
            if now_seen > seen:
                seen, since = now_seen, time.monotonic()
            if time.monotonic() - since > STALLED_S or self.tree.dead():
                raise Failed(f"{max(seen, 0)} of {count} arrived{self.words()}")
            time.sleep(0.05)

    def words(self) -> str:
        """What the processes said last."""
        lines = [_last_line(log.read_text(errors="replace")) for log in self.folder.glob("log-*")]
        return "".join(f"; {line}" for line in lines if line)[:300]

    # -- the processes

    def wait_quiet(self, window_s: float = 0.5, within_s: float = 30) -> None:
        """Until the processes idle: started up, or done with their books."""
        give_up_at = time.monotonic() + within_s
        while time.monotonic() < give_up_at:
            before, size = self.tree.cpu_s(), len(self.tree.members())
            time.sleep(window_s)
            used = self.tree.cpu_s() - before
            if self.tree.dead():
                raise Failed(f"it ended at once{self.words()}")
            if used < QUIET_SHARE * window_s and size == len(self.tree.members()):
                return

    def wait_settled(self) -> None:
        """Until Redis does not rewrite its file: after a big load it does, in a process that takes a core."""

        def settled() -> bool:
            found: Mapping[str, int] = self.redis.info("persistence")
            return not (found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"])

        wait_until(settled, 300, "Redis's file rewritten")

    def used_memory(self) -> int:
        """Bytes that Redis keeps, without what its clients and its file take for a moment."""
        found: Mapping[str, int] = self.redis.info("memory")
        return found["used_memory"] - found["mem_clients_normal"] - found["mem_aof_buffer"]


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


@contextlib.contextmanager
def ends_on_signals() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does, so that nothing that we started stays."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
