"""./run.sh as a user runs it: in a folder of its own, with real processes, found by the folder they work in."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from postrider.selftest.fleet import free_port
from tests import conftest
from tests.certificates import make_certificate
from tests.conftest import POSTRIDER

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")

CHECKOUT = Path(__file__).parent.parent
GREETING = "Ctrl-C stops it."


def until(condition, deadline_s=30):
    """What `condition` gives once it gives something; fails when it never does."""
    give_up_at = time.monotonic() + deadline_s * conftest.patience
    while not (found := condition()):
        assert time.monotonic() < give_up_at, f"never came true: {condition}"
        time.sleep(0.02)
    return found


class Place:
    """A folder that looks like a fresh checkout, with the environment the tests run in as the active one."""

    def __init__(self, folder):
        self.folder = folder
        self.log = folder / "log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {
            name: value for name, value in os.environ.items() if name.startswith("COVERAGE")
        } | {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "VIRTUAL_ENV": sys.prefix,
            "BIND": f"127.0.0.1:{self.port}",
            "API_PROCESSES": "1",
            "WORKERS": "1",
        }
        for name in ("run.sh", "supervisord.conf", "pyproject.toml", "constraints.txt"):
            shutil.copy(CHECKOUT / name, folder)

    def start(self, *arguments, **environ):
        with self.log.open("wb") as log:
            return subprocess.Popen(
                ["./run.sh", *arguments],
                cwd=self.folder,
                env=self.environ | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *arguments, **environ):
        """The exit code and the output of a start that is to fail."""
        code = self.start(*arguments, **environ).wait(60)
        return code, self.log.read_text()

    def ready(self, running):
        until(lambda: GREETING in self.log.read_text() or running.poll() is not None)
        assert running.poll() is None, self.log.read_text()

    def processes(self, *words):
        """Id -> command line of what works in this folder or below, with all the words in it."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                where = (process / "cwd").readlink()
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has just ended
                continue
            if where.is_relative_to(self.folder) and all(word in command for word in words):
                found[int(process.name)] = command
        return found

    def curl(self, path, *flags):
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *flags, self.url + path]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A place where Postrider runs."""
    place = Place(tmp_path_factory.mktemp("run"))
    process = place.start()
    place.ready(process)
    yield place
    process.terminate()
    process.wait(60)


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    for pid in place.processes():
        os.kill(pid, signal.SIGKILL)


# --- while it runs ---


def test_it_makes_a_password_that_nobody_else_reads(running):
    env = running.folder / ".env"

    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert re.search(r"^API_USER=postrider\nAPI_PASSWORD=[\w-]{32}$", env.read_text(), re.MULTILINE)
    until(lambda: env.as_posix() in running.log.read_text())  # a line after the greeting
    assert re.search(r"^WEBHOOK_SECRET=whsec_[\w+/]{32}$", env.read_text(), re.MULTILINE)
    assert not re.search("API_PASSWORD=|whsec_", running.log.read_text())
    until(lambda: "the courier is ready" in running.log.read_text())


def test_the_curl_line_it_prints_sends_a_message(running):
    line = re.search(r"^  curl .*?\}\"$", running.log.read_text(), re.DOTALL | re.MULTILINE)

    done = subprocess.run(["bash", "-c", line[0]], capture_output=True, text=True, check=True)

    assert '"uuid":"1"' in done.stdout.replace(" ", "")


def test_it_says_nothing_of_its_supervisor(running):
    assert "supervis" not in running.log.read_text().lower()


def test_a_second_one_says_that_the_first_has_the_port(running, tmp_path):
    second = Place(tmp_path)

    code, said = second.run(BIND=running.environ["BIND"])

    assert code == 1
    assert re.fullmatch(
        r"postrider: BIND: cannot listen on [^\n]+ Address already in use;[^\n]+\n", said
    )


@pytest.mark.parametrize("words", [["redis-server"], ["gunicorn"], ["postrider", "worker"]])
@pytest.mark.parametrize("times", ["once", "again at once"])
def test_what_is_killed_is_soon_back(running, words, times):
    def oldest():
        return min(running.processes(*words), default=None)

    before = until(oldest)
    os.kill(before, signal.SIGKILL)

    assert until(lambda: oldest() not in {before, None})
    assert until(lambda: running.curl("/readyz") == "200")


# --- how it ends ---


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
def test_it_ends_all_that_it_started_and_redis_last(place, how):
    process = place.start(API_PROCESSES="2", WORKERS="2")
    place.ready(process)

    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    order = []
    while process.poll() is None:
        names = {name for name in ("redis-server", "gunicorn", "worker") if place.processes(name)}
        order.append(names)
        time.sleep(0.01)

    assert process.returncode == 0, place.log.read_text()
    assert place.processes() == {}
    assert Path(os.devnull).is_char_device()  # supervisor deletes its pidfile, whatever that is
    assert not list(place.folder.glob("*.pid"))
    assert all("redis-server" in names or not names for names in order)
    assert "ready to exit, bye bye" in place.log.read_text()  # so it saved all it had
    assert place.log.read_text().endswith("Postrider has stopped.\n")


@pytest.mark.parametrize("victim", ["run.sh", "supervise"])
def test_nothing_outlives_a_killed_parent(place, victim):
    process = place.start()
    place.ready(process)

    os.kill(min(place.processes(victim)), signal.SIGKILL)

    until(lambda: not place.processes())
    assert conftest.ended(process) not in {0, None}


def test_a_start_that_is_called_off_leaves_nothing(place):
    process = place.start()
    until(lambda: place.processes("supervise"))

    process.terminate()

    assert process.wait(30) in {0, -signal.SIGTERM}
    until(lambda: not place.processes())


# --- other people's Redis, and none of our workers ---


def test_a_redis_of_ones_own_and_no_workers(place, tmp_path_factory):
    other = Place(tmp_path_factory.mktemp("redis"))
    redis = subprocess.Popen(
        [POSTRIDER, "redis"],
        cwd=other.folder,
        env=other.environ,
        stdout=subprocess.DEVNULL,
    )
    until((other.folder / "data/redis.sock").exists)

    process = place.start(REDIS_URL=f"unix://{other.folder}/data/redis.sock", WORKERS="0")
    place.ready(process)
    started = place.processes()
    process.terminate()

    assert process.wait(60) == 0
    assert not any(
        "redis-server" in command or {"redis", "worker"} & set(command.split())
        for command in started.values()
    )
    assert "API (1 processes), 0 workers" in place.log.read_text()
    assert redis.poll() is None
    redis.terminate()
    redis.wait(30)


def test_a_second_one_in_the_same_folder_leaves_the_first_alone(place):
    first = place.start()
    place.ready(first)
    before = place.processes("redis-server")

    second = subprocess.run(
        ["./run.sh"],
        cwd=place.folder,
        env=place.environ | {"BIND": f"127.0.0.1:{free_port()}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert second.returncode == 1
    assert "DATA_DIR: Postrider already runs on" in second.stderr
    assert place.processes("redis-server") == before
    assert place.curl("/healthz") == "200"
    first.terminate()
    assert first.wait(60) == 0


def test_a_folder_with_a_space_in_its_name_will_do(tmp_path):
    (tmp_path / "my post").mkdir()
    place = Place(tmp_path / "my post")
    running = place.start()
    try:
        place.ready(running)
        assert place.curl("/readyz") == "200"
    finally:
        running.terminate()
        assert running.wait(60) == 0


def test_a_misspelt_setting_is_told(place):
    (place.folder / ".env").write_text("WORKRS=1\nOURS=7\n")
    running = place.start()
    place.ready(running)
    said = place.log.read_text()
    assert (
        "postrider: .env: WORKRS is no setting, and has no effect: do you mean WORKERS?\n" in said
    )
    assert "OURS" not in said
    running.terminate()
    assert running.wait(60) == 0


def test_tls(place):
    make_certificate(place.folder)

    process = place.start(TLS_CERT_FILE="cert.pem", TLS_KEY_FILE="key.pem")
    place.ready(process)

    place.url = place.url.replace("http:", "https:")
    assert place.curl("/healthz", "--insecure") == "200"
    process.terminate()
    assert process.wait(60) == 0


# --- what cannot come up ---


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"REDIS_URL": "redis://127.0.0.1:1"}, "Redis at 127.0.0.1:1 does not answer"),
        ({"REDIS_URL": "nonsense"}, "REDIS_URL"),
        ({"DATA_DIR": "x" * 120}, "DATA_DIR"),
        ({"TLS_CERT_FILE": "no.pem", "TLS_KEY_FILE": "/dev/null"}, "TLS: cannot read no.pem"),
        ({"WORKERS": "many"}, "WORKERS"),
    ],
)
def test_what_cannot_come_up_is_one_clear_line(place, environ, reason):
    code, said = place.run(**environ)

    assert code == 1
    assert said.startswith(f"postrider: {reason}")
    assert said.count("\n") == 1
    assert place.processes() == {}


def test_a_missing_python_is_one_clear_line(place):
    tools = place.folder / "bin"
    tools.mkdir()
    for name in ("bash", "cat", "cksum", "dirname"):
        (tools / name).symlink_to(shutil.which(name))

    code, said = place.run(PATH=str(tools), VIRTUAL_ENV="")

    assert code == 1
    assert re.fullmatch(
        r"run\.sh: Python 3\.11 or newer is needed: apt install python3[^\n]+\n", said
    )


def test_a_redis_that_ends_at_once_ends_the_start(place):
    broken = place.folder / "bin" / "redis-server"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\n[ $1 = --version ] && echo v=8.0.0 || exit 1\n")
    broken.chmod(0o755)

    code, said = place.run(PATH=f"{broken.parent}:{place.environ['PATH']}")

    *_, redis, run = said.splitlines()
    assert code == 1
    assert re.match(r"postrider: Redis at \S+ does not answer: .+; see its own words", redis)
    assert run.startswith("run.sh: Postrider did not come up")
    assert place.processes() == {}


def test_help_names_every_command(place):
    code, said = place.run("help")

    assert code == 0
    assert all(f"./run.sh {name}" in said for name in ("test", "docker", "setup", "help"))
    assert place.run("dance")[0] == 2
