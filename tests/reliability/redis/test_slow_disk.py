"""An fsync takes long, and Redis, which then writes nothing, is killed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from postrider.link import connect
from postrider.model import NewMessage, Recipient
from postrider.service import Service, open_accounts
from postrider.settings import Durability, Settings
from postrider.store import Store
from tests.conftest import wait_until
from tests.reliability.redis.conftest import Serve, Server

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


@pytest.fixture
def slow(serve: Serve, tmp_path: Path) -> Server:
    """A Redis that fsyncs each second, and takes three for it."""
    library = tmp_path / "slow_fsync.so"
    source = Path(__file__).with_name("slow_fsync.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    flags = ("--appendonly", "yes", "--appendfsync", "everysec")
    return serve(*flags, environ={"LD_PRELOAD": str(library)}).start()


def accept_during_an_fsync(slow: Server, durability: Durability) -> None:
    """Accepts a message while Redis holds back what it has to write, and kills Redis at the yes."""
    settings = Settings.from_env({"TELEGRAM_BOT_TOKEN": "1:x"}, None)
    with connect(slow.url) as client:
        service = Service(Store(client, durability=durability), settings, open_accounts(settings))
        client.set("something", "to fsync")
        wait_until(lambda: slow.info("aof_pending_bio_fsync"), 10, "an fsync")
        service.accept(NewMessage("Hello", (Recipient("42", "telegram"),)))
    slow.kill()
    slow.environ.clear()
    slow.start()


def test_what_was_accepted_during_a_slow_fsync_outlives_redis(slow: Server) -> None:
    """Accepted and lost 0: the yes waits until the message is written."""
    accept_during_an_fsync(slow, "everysec")
    assert slow.ask("ZCARD", "pr:in:scheduled") == 1


def test_without_waiting_it_would_be_lost(slow: Server) -> None:
    """Else the test above would pass whatever we do."""
    accept_during_an_fsync(slow, "none")
    assert slow.ask("ZCARD", "pr:in:scheduled") == 0
