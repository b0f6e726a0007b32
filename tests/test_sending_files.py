"""Messages with files, all the way: kept, claimed, uploaded by either kind of worker, received whole."""

import hashlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import redis

from messengers.base import File, NoReply, Request
from postrider.model import Attachment, NewMessage, Recipient
from postrider.service import Service
from postrider.transport import Blocking
from tests.conftest import Start, wait_until
from tests.fake import Answer, Call, FakeMessenger, says
from tests.test_files import keep

NOISE = random.Random(1).randbytes(200_000)
CONTENTS = {
    "image": ("a.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0" + NOISE),
    "video": ("a.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + NOISE),
    "audio": ("a.mp3", b"ID3\x04\0\0\0\0\0\0" + NOISE),
    "voice": ("a.ogg", b"OggS\0\x02" + NOISE),
    "animation": ("a.gif", b"GIF89a\x02\0\x03\0\0\0\0!\xff\x0bNETSCAPE2.0" + NOISE),
    "sticker": ("a.webp", b"RIFF\x10\0\0\0WEBPVP8 " + NOISE[:90_000]),
    "document": ("отчёт.pdf", b"%PDF-1.4\n" + NOISE),
}
SENDERS = ["ours", "stock"]


@pytest.fixture(params=SENDERS)
def sending(request: pytest.FixtureRequest, service: Service, start: Start) -> Iterator[Service]:
    """The service, with whoever sends: our worker, or what a stock one runs."""
    stop = threading.Event()

    def drain() -> None:
        transport = Blocking(service.keep_note)
        while not stop.wait(0.02):
            for job in service.store.redis.zrange(
                "rq:scheduler:scheduled_jobs", 0, time.time(), byscore=True
            ):
                service.sender.deliver(job.decode(), transport)

    if request.param == "ours":
        start("postrider", "worker")
        yield service
        return
    thread = threading.Thread(target=drain)
    thread.start()
    yield service
    stop.set()
    thread.join(10)


def send(
    service: Service, to: str, *kinds: str, body: str = "", count: int = 1, uuid: str = "42"
) -> str:
    files = tuple(
        Attachment(keep(service, content, name).file.id, kind=kind)  # type: ignore[arg-type]
        for kind, (name, content) in ((kind, CONTENTS[kind]) for kind in kinds)
    )
    tos = tuple(Recipient(str(int(uuid) + n), to) for n in range(count))
    return service.accept(NewMessage(body, tos, attachments=files))[0].id


def state(service: Service, message: str, index: int = 0) -> str:
    delivery, _, _ = service.delivery(f"{message}-{index}")
    return delivery.state.value


def uploads(messenger: FakeMessenger) -> list[tuple[str, str, str]]:
    """Method, name and digest of each file that came."""
    return [(c.method, u.name, u.sha256) for c in messenger.calls for u in c.uploads.values()]


def digest(kind: str) -> str:
    return hashlib.sha256(CONTENTS[kind][1]).hexdigest()


@pytest.mark.parametrize("to", ["telegram", "whatsapp"])
def test_each_kind_is_received_whole(sending: Service, messenger: FakeMessenger, to: str) -> None:
    message = send(sending, to, *CONTENTS)
    wait_until(lambda: state(sending, message) == "sent", 20)
    came = [(name, sha256) for _, name, sha256 in uploads(messenger)]
    assert came == [(CONTENTS[kind][0], digest(kind)) for kind in CONTENTS]
